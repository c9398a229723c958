"""Archives: zip and tar files of which members are read in place. Nothing is unpacked to disk."""

from captioning.archives.contents import Archive, ArchiveLimits, Member, limits_of
from captioning.archives.names import archive_of, is_archive, member_path, split_member
from captioning.archives.opening import list_archive, open_archive, open_archive_at

__all__ = [
    "Archive",
    "ArchiveLimits",
    "Member",
    "archive_of",
    "is_archive",
    "limits_of",
    "list_archive",
    "member_path",
    "open_archive",
    "open_archive_at",
    "split_member",
]
