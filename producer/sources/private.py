"""Folders that other programs and systems keep for themselves: what a person deleted, old versions, thumbnails.

A walk passes them over, as it does hidden folders (`.thumbnails`, `.zfs`, `.Trash-1000`). A folder that a person names
is walked, whatever it is called.
"""

import os
from itertools import chain

_NAMES = {
    "recycle bin": "$recycle.bin|recycler|recycled|#recycle|@recycle|@recycle_bin|trashbox|network trash folder"
    "|files_trashbin",
    "snapshot folder": "#snapshot|~snapshot|@recently-snapshot|@snapshot|@sharesnap|backups.backupdb|files_versions",
    "thumbnail folder": "@eadir|@__thumb|thmbnl",  # Synology; QNAP; Sony's cards
    "system folder": "system volume information|lost+found|lost.dir|__macosx|@tmp|temporary items",
}
_BY_NAME = {name.encode(): category for category, names in _NAMES.items() for name in names.split("|")}
_BY_START = {
    b"@gmt-": "snapshot folder",  # Samba's previous versions
    b"found.0": "system folder",  # what Windows rescued from a damaged disk
    b"appdata_oc": "system folder",  # Nextcloud's previews
}
_LIBRARIES = (b".photoslibrary", b".photolibrary", b".migratedphotolibrary", b".aplibrary", b"iphoto library")
_ORIGINALS = (b"originals", b"masters", b".approject")  # the rest of such a library is derived from them
_BY_PARENT = {  # the end of the parent's name, the folder's name
    (b"captureone", b"cache"): "preview folder",
    (b".cocatalog", b"cache"): "preview folder",
    (b"cache", b"thumbnails"): "thumbnail folder",  # PhotoPrism, desktops
    **{(b"google photos", name): "recycle bin" for name in (b"trash", b"bin")},  # Takeout
    (b"google fotos", b"papierkorb"): "recycle bin",
}
_MOBILE_ORIGINALS = b"mobile downloads.lrdata"  # the only *.lrdata that is not derived


def category_of(path: bytes) -> str | None:
    """Return the category under which a walk counts this folder and passes it over; None for a folder to walk.

    `path` has the names of the folder and of its parent. Case is ignored, as Windows, macOS and NAS systems do.
    """
    parent, name = (os.path.basename(part).lower() for part in (os.path.dirname(path), path))
    if name in _BY_NAME:
        return _BY_NAME[name]
    by_start = (category for start, category in _BY_START.items() if name.startswith(start))
    by_parent = (_BY_PARENT[pair] for pair in _BY_PARENT if name == pair[1] and parent.endswith(pair[0]))
    if (category := next(chain(by_start, by_parent), None)) is not None:
        return category
    previews = name.endswith(b".lrdata") and name != _MOBILE_ORIGINALS
    if previews or (parent.endswith(_LIBRARIES) and not name.endswith(_ORIGINALS)):
        return "preview folder"
    is_immich = name == b"thumbs" and os.path.lexists(os.path.join(path, b".immich"))
    return "thumbnail folder" if is_immich else None
