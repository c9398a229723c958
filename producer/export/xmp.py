"""XMP sidecars: a description and an alt text, put into a packet of bytes that otherwise stays as it is.

XMP is RDF in XML (ISO 16684-1). The packet is parsed only to find places in it; what is written is the old bytes with
some ranges replaced, so that fields of other programs stay byte for byte. Document types and entities are refused, and
so is a packet of more than MAX_BYTES: neither occurs in real sidecars.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat
from xml.sax.saxutils import escape

from captioning.errors import FileLeft

MAX_BYTES = 8_000_000
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
IPTC_CORE = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
OWN = "urn:captionmill:1.0:"
MACHINE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

DESCRIPTION, ALT_TEXT, PROVENANCE = f"{DC} description", f"{IPTC_CORE} AltTextAccessibility", f"{OWN} Caption"
_TEXTS = {DESCRIPTION: ("dc", DC, "description"), ALT_TEXT: ("Iptc4xmpCore", IPTC_CORE, "AltTextAccessibility")}
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
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


@dataclass(frozen=True)
class Provenance:
    """Where a caption is from. Its `DigitalSourceType` is that of the caption, not of the photograph."""

    model: str | None  # None: a person wrote it
    confidence: float | None


@dataclass
class _Property:
    """A property of the image: where it is in the packet, and what it says in the default language."""

    start: int
    end: int = 0
    text: str = ""
    content: tuple[int, int] | None = None  # of the x-default item
    is_attribute: bool = False


@dataclass
class Packet:
    """A parsed packet."""

    data: bytes
    properties: dict[str, _Property] = field(default_factory=dict)
    place: int = -1  # where a property can be inserted
    self_closing: tuple[int, int, bytes] | None = None  # of the description that has no content, with its name

    def text(self, name: str) -> str | None:
        """Return what a property says in the default language; None without the property."""
        found = self.properties.get(name)
        return None if found is None else found.text


def parse(data: bytes) -> Packet:
    """Parse a packet. Raises FileLeft."""
    if len(data) > MAX_BYTES:
        raise FileLeft(f"it has more than {MAX_BYTES} bytes")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
        raise FileLeft("it is in UTF-16 or UTF-32")
    reader = _Reader(data)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FileLeft(f"it is no well-formed XML: {error}") from None
    if reader.packet.place < 0:
        raise FileLeft("it has no rdf:Description")
    return reader.packet


def new_packet(description: str, alt_text: str, provenance: Provenance) -> bytes:
    """Return a packet that says only this."""
    return with_texts(parse(_EMPTY), {DESCRIPTION: description, ALT_TEXT: alt_text}, provenance)


def with_texts(packet: Packet, texts: dict[str, str], provenance: Provenance | None) -> bytes:
    """Return the bytes of a packet in which DESCRIPTION or ALT_TEXT say something else, and PROVENANCE fits."""
    changes: list[tuple[int, int, bytes]] = []
    added: list[bytes] = []
    for name, text in texts.items():
        found = packet.properties.get(name)
        if found is None:
            added.append(_element(name, text))
        elif found.content is not None:
            changes.append((*found.content, _quoted(text)))
        elif found.is_attribute:
            changes.append((found.start, found.end, b""))
            added.append(_element(name, text))
        else:
            changes.append((found.start, found.end, _element(name, text)))
    own = packet.properties.get(PROVENANCE)
    if own is not None:
        changes.append((own.start, own.end, b"" if provenance is None else _provenance(provenance)))
    elif provenance is not None:
        added.append(_provenance(provenance))
    if added:
        changes.append(_insertion(packet, added))
    data = packet.data
    for start, end, new in sorted(changes, reverse=True):
        data = data[:start] + new + data[end:]
    return data


def _insertion(packet: Packet, elements: Sequence[bytes]) -> tuple[int, int, bytes]:
    inside = b"".join(b" " + element + b"\n  " for element in elements)
    if packet.self_closing is None:
        return packet.place, packet.place, inside
    start, end, name = packet.self_closing
    return start, end, b">\n  " + inside + b"</" + name + b">"


def _element(name: str, text: str) -> bytes:
    prefix, namespace, local = _TEXTS[name]
    start = f'<{prefix}:{local} xmlns:{prefix}="{namespace}"><rdf:Alt xmlns:rdf="{RDF}"><rdf:li xml:lang="x-default">'
    return start.encode() + _quoted(text) + f"</rdf:li></rdf:Alt></{prefix}:{local}>".encode()


def _provenance(provenance: Provenance) -> bytes:
    parts = []
    if provenance.model is not None:
        parts.append(f"<captionmill:model>{escape(_NOT_XML.sub('', provenance.model))}</captionmill:model>")
        parts.append(
            f'<Iptc4xmpExt:DigitalSourceType xmlns:Iptc4xmpExt="{IPTC_EXT}">{MACHINE}</Iptc4xmpExt:DigitalSourceType>'
        )
    if provenance.confidence is not None:
        parts.append(f"<captionmill:confidence>{provenance.confidence:.4f}</captionmill:confidence>")
    if not parts:
        parts.append("<captionmill:source>human</captionmill:source>")
    start = f'<captionmill:Caption xmlns:captionmill="{OWN}" xmlns:rdf="{RDF}" rdf:parseType="Resource">'
    return (start + "".join(parts) + "</captionmill:Caption>").encode()


def _quoted(text: str) -> bytes:
    return escape(_NOT_XML.sub("", text)).encode()


class _Reader:
    """Finds places while expat parses. Names are `namespace local`."""

    def __init__(self, data: bytes) -> None:
        self.packet = Packet(data)
        self.path: list[str] = []
        self.starts: list[int] = []
        self.property: str | None = None
        self.is_default = False
        parser = self.parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = False
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.ProcessingInstructionHandler = lambda target, data: None

    def _refuse(self, *_: object) -> NoReturn:
        raise FileLeft("it has a document type or entities")

    @property
    def _of_image(self) -> bool:
        """Whether the element that contains the present one describes the image."""
        return self.path[-2:] == [f"{RDF} RDF", f"{RDF} Description"]

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        at = self.parser.CurrentByteIndex
        if self._of_image and name in (*_TEXTS, PROVENANCE):
            self.property = name
            self.packet.properties[name] = _Property(at)
        elif self.path[-1:] == [f"{RDF} RDF"] and name == f"{RDF} Description":
            self._describe(at, attributes)
        elif self.property in _TEXTS and name == f"{RDF} li":
            self.is_default = attributes.get(_LANGUAGE) == "x-default" or not self.packet.properties[self.property].text
            self._begin_item(at)
        self.path.append(name)
        self.starts.append(at)

    def _describe(self, at: int, attributes: dict[str, str]) -> None:
        for name in _TEXTS:
            if name in attributes:
                self._attribute(at, name, attributes[name])
        if self.packet.place < 0:
            end = _end_of_tag(self.packet.data, at)
            self.packet.place = end
            if self.packet.data[end - 2 : end] == b"/>":
                tag = re.match(rb"<([^\s/>]+)", self.packet.data[at:end])
                self.packet.self_closing = (end - 2, end, tag[1] if tag else b"rdf:Description")

    def _attribute(self, at: int, name: str, text: str) -> None:
        """Note a property that is written as an attribute of its description."""
        tag = self.packet.data[at : _end_of_tag(self.packet.data, at)]
        local = name.rpartition(" ")[2].encode()
        found = re.search(rb"\s[^\s=]*:" + local + rb"\s*=\s*(\"[^\"]*\"|'[^']*')", tag)
        if found is not None:
            place = _Property(at + found.start(), at + found.end(), text, is_attribute=True)
            self.packet.properties[name] = place

    def _begin_item(self, at: int) -> None:
        found = self.packet.properties[self.property or ""]
        end = _end_of_tag(self.packet.data, at)
        if self.is_default and self.packet.data[end - 2 : end] != b"/>":
            found.content = (end, end)
            found.text = ""

    def _text(self, text: str) -> None:
        if self.property in _TEXTS and self.is_default:
            self.packet.properties[self.property].text += text
        elif self.property in _TEXTS and self.path[-1] == self.property and text.strip():
            self.packet.properties[self.property].text += text.strip()  # a simple value instead of a list

    def _end(self, name: str) -> None:
        at = self.parser.CurrentByteIndex
        self.path.pop()
        start = self.starts.pop()
        if self.property in _TEXTS and name == f"{RDF} li" and self.is_default:
            found = self.packet.properties[self.property]
            if found.content is not None:
                found.content = (found.content[0], at)
            self.is_default = False
        if name == self.property and self._of_image:
            # the end event of an empty element is at its start
            self.packet.properties[name].end = _end_of_tag(self.packet.data, at)
            self.property = None
        if (
            name == f"{RDF} Description"
            and self.path[-1:] == [f"{RDF} RDF"]
            and self.packet.place == _end_of_tag(self.packet.data, start)
        ):
            self.packet.place = at if self.packet.self_closing is None else self.packet.place


def _end_of_tag(data: bytes, start: int) -> int:
    """Return where the tag that begins at `start` ends, just behind its >; attributes may have one in quotes."""
    found = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>").match(data, start)
    if found is None:
        raise FileLeft("a tag never ends")
    return found.end()
