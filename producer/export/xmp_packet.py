"""Where things are in an XMP packet: its descriptions and alt texts, and what else it says.

XMP is RDF in XML (ISO 16684-1). Document types and entities are refused, and so is a packet of more than MAX_BYTES:
neither occurs in real sidecars.
"""

import re
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from captioning.errors import FileLeft

MAX_BYTES = 8_000_000
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
IPTC_CORE = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
OWN = "urn:captionmill:1.0:"

DESCRIPTION, ALT_TEXT, RECORD = f"{DC} description", f"{IPTC_CORE} AltTextAccessibility", f"{OWN} Caption"
TEXTS = {DESCRIPTION: ("dc", DC, "description"), ALT_TEXT: ("Iptc4xmpCore", IPTC_CORE, "AltTextAccessibility")}
DEFAULT = "x-default"
_LISTS = (f"{RDF} Alt", f"{RDF} Bag", f"{RDF} Seq")
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_ATTRIBUTE = re.compile(rb"\s+([^\s=/>]+)\s*=\s*(\"[^\"]*\"|'[^']*')")
_TAG = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")


@dataclass
class Item:
    """One language of a text."""

    start: int
    language: str
    end: int = 0
    content: tuple[int, int] | None = None  # None: the element is empty and has no end tag
    text: str = ""


@dataclass
class Property:
    """A text of the image, and where it is in the packet."""

    start: int
    end: int = 0
    content: tuple[int, int] | None = None  # between its tags, or its quotes
    quote: bytes = b""  # of an attribute
    direct: str = ""  # words that are not in a list
    items: list[Item] = field(default_factory=list)
    list_content: int = -1  # where the content of the list begins
    is_other: bool = False  # a form that cannot be changed safely

    @property
    def text(self) -> str:
        """What it says in the default language, else in the first one that says something."""
        default = next((item.text for item in self.items if item.language == DEFAULT), "")
        return default or next((item.text for item in self.items if item.text), "") or self.direct.strip()


@dataclass
class Packet:
    """A parsed packet."""

    data: bytes
    properties: dict[str, Property] = field(default_factory=dict)
    records: list[tuple[int, int]] = field(default_factory=list)  # captionmill's own, where they are
    recorded: str = ""  # the caption that is in them
    place: int = -1  # where a property can be inserted
    self_closing: tuple[int, int, bytes] | None = None  # end of the description that has no content, with its name

    def text(self, name: str) -> str | None:
        """Return what a property says; None without the property. Raises FileLeft for a form that cannot be read."""
        found = self.properties.get(name)
        if found is None:
            return None
        if found.is_other:
            raise FileLeft(f"its {name.rpartition(' ')[2]} is a structure, not a text")
        return found.text

    def words_of_others(self, name: str) -> str:
        """Return what a property says without the caption that an export has added. Raises FileLeft."""
        text = self.text(name) or ""
        if not self.recorded:
            return text
        return text.removesuffix(self.recorded).rstrip() if text.endswith(self.recorded) else (
            text.removeprefix(self.recorded).lstrip()
        )  # fmt: skip


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


def rest_of(data: bytes) -> list[object] | None:
    """Return what a packet says apart from our properties, in order; None if it is not well-formed. Raises FileLeft."""
    reader = _Reader(data)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError:
        return None
    return reader.rest


class _Reader:
    """Finds places while expat parses. Names are `namespace local`."""

    def __init__(self, data: bytes) -> None:
        self.packet = Packet(data)
        self.open: list[tuple[str, int]] = []  # elements around the present place, with where they begin
        self.property: tuple[str, Property] | None = None
        self.item: Item | None = None
        self.rest: list[object] = []  # what is not ours, in order
        self.ours = 0  # elements of ours around the present place
        parser = self.parser = expat.ParserCreate(namespace_separator=" ")
        parser.namespace_prefixes = True
        parser.ordered_attributes = True
        parser.buffer_text = False
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.CommentHandler = lambda comment: self._note("comment", comment)
        parser.ProcessingInstructionHandler = self._note
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.XmlDeclHandler = self._declare

    def _refuse(self, *_: object) -> NoReturn:
        raise FileLeft("it has a document type or entities")

    def _declare(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "utf8"):
            raise FileLeft(f"it is declared to be in {encoding}, not in UTF-8")

    @property
    def _of_image(self) -> bool:
        """Whether the element that contains the present one describes the image."""
        return [name for name, _ in self.open[-2:]] == [f"{RDF} RDF", f"{RDF} Description"]

    def _start(self, full_name: str, listed: list[str]) -> None:
        at, name = self.parser.CurrentByteIndex, _plain(full_name)
        attributes = dict(zip(listed[::2], listed[1::2], strict=True))
        if self.property is not None:
            self._start_inside(self.property[1], at, name, attributes)
        elif self._of_image and name in TEXTS:
            if name in self.packet.properties:
                raise FileLeft(f"it has {name.rpartition(' ')[2]} twice")
            found = self.packet.properties[name] = Property(at)
            found.is_other = any(_plain(attribute) != _LANGUAGE for attribute in attributes)
            self.property = name, found
        elif [outer for outer, _ in self.open[-1:]] == [f"{RDF} RDF"] and name == f"{RDF} Description":
            self._describe(at, attributes)
        self.ours += self.ours > 0 or (self._of_image and name in (*TEXTS, RECORD))
        kept = sorted((_plain(key), value) for key, value in attributes.items() if _plain(key) not in TEXTS)
        self._note(name, kept if name == f"{RDF} Description" else sorted(attributes.items()))
        self.open.append((name, at))

    def _start_inside(self, found: Property, at: int, name: str, attributes: dict[str, str]) -> None:
        """Note an element inside of a text: a list, and items in it, are what we know."""
        depth = len(self.open) - next(i for i, (_, start) in enumerate(self.open) if start == found.start)
        if depth == 1 and name in _LISTS and not attributes and found.list_content < 0:
            found.list_content = _end_of_tag(self.packet.data, at)
        elif depth == 2 and name == f"{RDF} li" and found.list_content >= 0:
            languages = {_plain(key): value for key, value in attributes.items()}
            self.item = Item(at, languages.pop(_LANGUAGE, "").lower())
            found.items.append(self.item)
            found.is_other |= bool(languages)
        else:
            found.is_other = True

    def _describe(self, at: int, attributes: dict[str, str]) -> None:
        for full_name, text in attributes.items():
            name = _plain(full_name)
            if name in TEXTS:
                if name in self.packet.properties:
                    raise FileLeft(f"it has {name.rpartition(' ')[2]} twice")
                self.packet.properties[name] = self._attribute(at, full_name, text)
        if self.packet.place < 0:
            end = _end_of_tag(self.packet.data, at)
            self.packet.place = end
            if _is_self_closing(self.packet.data, at):
                tag = re.match(rb"<([^\s/>]+)", self.packet.data[at:end])
                self.packet.self_closing = (end - 2, end, tag[1] if tag else b"rdf:Description")

    def _attribute(self, at: int, full_name: str, text: str) -> Property:
        """Return a text that is written as an attribute of its description."""
        _, local, prefix = full_name.split(" ")
        tag = self.packet.data[at : _end_of_tag(self.packet.data, at)]
        for found in _ATTRIBUTE.finditer(tag):
            if found[1] == f"{prefix}:{local}".encode():
                content = (at + found.start(2) + 1, at + found.end(2) - 1)
                start, end = at + found.start(), at + found.end()
                return Property(start, end, content, quote=found[2][:1], direct=text)
        raise FileLeft(f"its {local} cannot be found")

    def _text(self, text: str) -> None:
        if self.item is not None:
            self.item.text += text
        elif self.property is not None:
            self.property[1].direct += text
        elif [name for name, _ in self.open[-2:]] == [RECORD, f"{OWN} text"]:
            self.packet.recorded += text
        if not self.ours:
            if self.rest and isinstance(self.rest[-1], str):
                self.rest[-1] += text
            else:
                self.rest.append(text)

    def _end(self, full_name: str) -> None:
        name, start = self.open.pop()
        data, at = self.packet.data, self.parser.CurrentByteIndex
        is_empty = _is_self_closing(data, start)
        end = _end_of_tag(data, start if is_empty else at)
        content = None if is_empty else (_end_of_tag(data, start), at)
        if self.item is not None and start == self.item.start:
            self.item.end, self.item.content, self.item = end, content, None
        if self.property is not None and start == self.property[1].start:
            found = self.property[1]
            found.end, found.content, self.property = end, content, None
            found.is_other |= bool(found.list_content >= 0 and found.direct.strip())
        if name == RECORD and self._of_image:
            self.packet.records.append((start, end))
        if self.packet.place == _end_of_tag(data, start) and self.packet.self_closing is None:
            self.packet.place = at  # before the end of the first description
        if not self.ours:
            self._note("end", name)
        self.ours -= self.ours > 0

    def _note(self, what: str, value: object) -> None:
        """Note something that is not ours. White space between elements does not count: an insertion adds some."""
        if self.ours:
            return
        if self.rest and isinstance(self.rest[-1], str) and not self.rest[-1].strip():
            self.rest.pop()
        self.rest.append((what, value))


def _plain(name: str) -> str:
    """Return a name without its prefix."""
    return " ".join(name.split(" ")[:2])


def _end_of_tag(data: bytes, start: int) -> int:
    """Return where the tag that begins at `start` ends, just behind its >; attributes may have one in quotes."""
    found = _TAG.match(data, start)
    if found is None:
        raise FileLeft("a tag never ends")
    return found.end()


def _is_self_closing(data: bytes, start: int) -> bool:
    end = _end_of_tag(data, start)
    return data[end - 2 : end] == b"/>"
