"""XMP sidecars: a description and an alt text, put into a packet of bytes that otherwise stays as it is.

The packet is parsed only to find places in it, see `xmp_packet`. What is written is the old bytes with something
inserted, so that fields of other programs stay byte for byte, and so do the words of a person to which a caption is
added. Before the new bytes are used they are parsed too, and all that is not ours must be as it was.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from captioning.errors import FileLeft
from producer.export.xmp_packet import DEFAULT, OWN, RDF, TEXTS, Packet, Property, parse, rest_of

IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
MACHINE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

How = Literal["merge", "append", "prepend", "overwrite"]
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EMPTY = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="">
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""

Edit = tuple[int, int, bytes]
"""A range of the old bytes, and what stands in its place."""


@dataclass(frozen=True)
class Provenance:
    """Where a caption is from. Its `DigitalSourceType` is that of the caption, not of the photograph."""

    model: str | None  # None: a person wrote it
    confidence: float | None


def new_packet(caption: str, provenance: Provenance) -> bytes:
    """Return a packet that says only this, as description and as alt text."""
    return with_caption(parse(_EMPTY), caption, "overwrite", provenance)


def with_caption(packet: Packet, caption: str, how: How, provenance: Provenance) -> bytes:
    """Return the bytes of a packet with a caption as description and as alt text.

    `merge` writes where there are no words. `append` and `prepend` add it to the words in the default language;
    `overwrite` puts it in their place. Raises FileLeft where that cannot be done safely.
    """
    edits: list[Edit] = []
    added: list[bytes] = []
    for name in TEXTS:
        found = packet.properties.get(name)
        if found is None:
            if caption or how == "overwrite":
                added.append(_element(name, caption))
        elif found.is_other and how != "overwrite":
            if how != "merge":
                raise FileLeft(f"its {name.rpartition(' ')[2]} is a structure, not a text")
        elif how == "overwrite" or (caption and (how != "merge" or not found.text)):
            edits.append(_changed(name, found, caption, how))
    if not edits and not added:
        return packet.data
    added.append(_record(caption, provenance))
    edits += [(start, end, b"") for start, end in packet.records]
    edits.append(_insertion(packet, added))
    data = packet.data
    for start, end, new in sorted(edits, reverse=True):
        data = data[:start] + new + data[end:]
    _require_the_rest_unchanged(packet.data, data)
    return data


def _changed(name: str, found: Property, caption: str, how: How) -> Edit:
    """Return the edit that puts a caption into a property that is there."""
    default = next((item for item in found.items if item.language == DEFAULT), None)
    if found.is_other:
        return found.start, found.end, _element(name, caption)
    if found.quote:
        return _into(found.content, _in_quotes(caption), found.text, how)
    if default is not None and default.content is not None and (default.text or not found.text or how == "overwrite"):
        return _into(default.content, _quoted(caption), default.text, how)
    if found.items:  # no words in the default language: they get an item of their own
        words = {"append": f"{found.text} {caption}", "prepend": f"{caption} {found.text}"}.get(how, caption)
        item = _item(words if found.text else caption)
        return (default.start, default.end, item) if default is not None else (*(found.list_content,) * 2, item)
    if found.direct.strip() and how != "overwrite":
        return _into(found.content, _quoted(caption), found.text, how)
    return found.start, found.end, _element(name, caption)


def _into(content: tuple[int, int] | None, caption: bytes, present: str, how: How) -> Edit:
    assert content is not None
    if how == "append" and present:
        return content[1], content[1], b" " + caption
    if how == "prepend" and present:
        return content[0], content[0], caption + b" "
    return (*content, caption)


def _insertion(packet: Packet, elements: Sequence[bytes]) -> Edit:
    inside = b"".join(b" " + element + b"\n  " for element in elements)
    if packet.self_closing is None:
        return packet.place, packet.place, inside
    start, end, name = packet.self_closing
    return start, end, b">\n  " + inside + b"</" + name + b">"


def _element(name: str, text: str) -> bytes:
    prefix, namespace, local = TEXTS[name]
    start = f'<{prefix}:{local} xmlns:{prefix}="{namespace}" xmlns:rdf="{RDF}"><rdf:Alt><rdf:li xml:lang="{DEFAULT}">'
    return start.encode() + _quoted(text) + f"</rdf:li></rdf:Alt></{prefix}:{local}>".encode()


def _item(text: str) -> bytes:
    start = f'<rdf:li xmlns:rdf="{RDF}" xml:lang="{DEFAULT}">'
    return start.encode() + _quoted(text) + b"</rdf:li>"


def _record(caption: str, provenance: Provenance) -> bytes:
    """Return captionmill's own record: which words are the caption, and where it is from."""
    parts = [f"<captionmill:text>{_quoted(caption).decode()}</captionmill:text>"]
    if provenance.model is not None:
        parts.append(f"<captionmill:model>{_quoted(provenance.model).decode()}</captionmill:model>")
        parts.append(
            f'<Iptc4xmpExt:DigitalSourceType xmlns:Iptc4xmpExt="{IPTC_EXT}">{MACHINE}</Iptc4xmpExt:DigitalSourceType>'
        )
    else:
        parts.append("<captionmill:source>human</captionmill:source>")
    if provenance.confidence is not None:
        parts.append(f"<captionmill:confidence>{provenance.confidence:.4f}</captionmill:confidence>")
    start = f'<captionmill:Caption xmlns:captionmill="{OWN}" xmlns:rdf="{RDF}" rdf:parseType="Resource">'
    return (start + "".join(parts) + "</captionmill:Caption>").encode()


def _quoted(text: str) -> bytes:
    return escape(_NOT_XML.sub("", text), {"\r": "&#13;"}).encode()


def _in_quotes(text: str) -> bytes:
    special = {'"': "&quot;", "'": "&apos;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
    return escape(_NOT_XML.sub("", text), special).encode()


def _require_the_rest_unchanged(before: bytes, after: bytes) -> None:
    """Raise FileLeft unless both packets say the same, apart from our properties. Guards against faults of ours."""
    if rest_of(after) is None or rest_of(before) != rest_of(after):
        raise FileLeft("it has a form in which a caption cannot be written safely")
