"""XMP packets: two fields change, everything else stays byte for byte, and what is no XMP is left alone."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import FileLeft
from producer.export.xmp import _NOT_XML, How, Provenance, new_packet, with_caption
from producer.export.xmp_packet import ALT_TEXT, DESCRIPTION, RECORD, Property, parse
from producer.export.xmp_packet import RDF as RDF_URI

MACHINE = Provenance("lstm", 0.5)
RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
LIGHTROOM = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <rdf:RDF {RDF}>
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" {DC}
   xmp:Rating="4"
   crs:Exposure2012="+0.35">
   <dc:subject><rdf:Bag><rdf:li>holiday</rdf:li><rdf:li>a &amp; b</rdf:li></rdf:Bag></dc:subject>
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Title</rdf:li></rdf:Alt></dc:title>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""
DARKTABLE = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}>
  <rdf:Description rdf:about="" xmlns:darktable="http://darktable.sf.net/" darktable:xmp_version="5" x='a>b'/>
</rdf:RDF></x:xmpmeta>""".replace(" x='a>b'", " darktable:note='a>b'")
SIMPLE = f'<rdf:RDF {RDF}><rdf:Description rdf:about="" {DC} dc:description="old words"/></rdf:RDF>'
LANGUAGES = (
    f'<rdf:RDF {RDF}><rdf:Description rdf:about="" {DC}><dc:description><rdf:Alt><rdf:li xml:lang="de">alt</rdf:li>'
    '<rdf:li xml:lang="x-default">old</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF>'
)
EMPTY_LIST = (
    f"<rdf:RDF {RDF}><rdf:Description {DC}><dc:description><rdf:Alt/></dc:description></rdf:Description></rdf:RDF>"
)


SAMPLES = sorted((Path(__file__).parent / "xmp").rglob("*.xmp"))
HOWS: tuple[How, ...] = ("merge", "append", "prepend", "overwrite")
CAPTION = "a dog & a <cat> \N{DOG FACE}"


def test_a_new_packet_says_the_caption_its_alt_text_and_that_a_model_wrote_it() -> None:
    packet = new_packet("a dog & a <cat>", MACHINE)
    found = parse(packet)
    assert found.text(DESCRIPTION) == found.text(ALT_TEXT) == found.recorded == "a dog & a <cat>"
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in packet
    assert b"trainedAlgorithmicMedia" not in new_packet("a", Provenance(None, None))


@pytest.mark.parametrize("before", [LIGHTROOM, DARKTABLE])
def test_a_caption_is_added_and_every_byte_of_other_programs_stays(before: str) -> None:
    after = with_caption(parse(before.encode()), "a dog", "merge", MACHINE)
    found = parse(after)
    assert (found.text(DESCRIPTION), found.text(ALT_TEXT)) == ("a dog", "a dog")
    remaining = iter(after)
    assert all(byte in remaining for byte in before.replace("/>\n</rdf:RDF>", ">\n</rdf:RDF>").encode())


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_of_another_program_is_lost_and_no_words_but_by_overwrite(sample: Path, how: How) -> None:
    """The samples were written by hand, in the forms of these programs and in worse ones; exiftool wrote `real*`."""
    before = sample.read_bytes()
    try:
        packet = parse(before)
        after = with_caption(packet, CAPTION, how, MACHINE)
    except FileLeft:
        return
    assert rest_of(after) == rest_of(before)
    changed = parse(after)
    for name in (DESCRIPTION, ALT_TEXT):
        if packet.properties.get(name, Property(0)).is_other and how == "merge":
            continue  # a structure, which counts as words
        words, present = packet.text(name) or "" if how != "overwrite" else "", changed.text(name) or ""
        expected = {"append": f"{words} {CAPTION}", "prepend": f"{CAPTION} {words}", "merge": words}
        assert squeezed(present) == squeezed(expected[how] if words else CAPTION)
        for item in packet.properties.get(name, Property(0)).items if how != "overwrite" else ():
            assert item.text in [new.text for new in changed.properties[name].items] or item.language == "x-default"
    if after != before:
        assert len(changed.records) == 1
        assert changed.recorded == CAPTION


def rest_of(data: bytes) -> list[object]:
    """Return all elements but ours, in order, with attributes and words. Independent of the code that is tested."""
    ours = {f"{{{name}".replace(" ", "}") for name in (DESCRIPTION, ALT_TEXT, RECORD)}

    def walk(element: ElementTree.Element) -> Iterator[object]:
        attributes = {key: value for key, value in element.attrib.items() if key not in ours}
        yield element.tag, attributes, (element.text or "").strip()
        for child in element:
            if child.tag not in ours or element.tag != f"{{{RDF_URI}}}Description":
                yield from walk(child)
            yield (child.tail or "").strip()

    return [part for part in walk(ElementTree.fromstring(data)) if part]


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lightroom/iso8859_declared.xmp", "declared to be in ISO-8859-1"),
        ("photoshop/parsetype_resource.xmp", "is a structure"),
        ("photoshop/li_resource.xmp", "is a structure"),
        ("photoshop/twice_described.xmp", "twice"),
    ],
)
def test_a_form_in_which_words_could_be_lost_is_left_alone(name: str, message: str) -> None:
    with pytest.raises(FileLeft, match=message):
        with_caption(parse((Path(__file__).parent / "xmp" / name).read_bytes()), CAPTION, "append", MACHINE)


def test_only_the_text_in_the_default_language_changes() -> None:
    packet = parse(LANGUAGES.encode())
    assert packet.text(DESCRIPTION) == "old"
    assert LANGUAGES.partition("old")[0].encode() in with_caption(packet, "new", "append", MACHINE)
    assert parse(with_caption(packet, "new", "overwrite", MACHINE)).text(DESCRIPTION) == "new"


def test_words_in_another_language_alone_stay_and_get_a_default_that_has_them_too() -> None:
    before = LANGUAGES.replace('<rdf:li xml:lang="x-default">old</rdf:li>', "")
    assert parse(with_caption(parse(before.encode()), "new", "merge", MACHINE)).text(DESCRIPTION) == "alt"
    after = parse(with_caption(parse(before.encode()), "new", "append", MACHINE))
    assert [(item.language, item.text) for item in after.properties[DESCRIPTION].items] == [
        ("x-default", "alt new"), ("de", "alt"),
    ]  # fmt: skip


def test_a_description_that_is_an_attribute_stays_one() -> None:
    packet = parse(SIMPLE.encode())
    assert packet.text(DESCRIPTION) == "old words"
    after = with_caption(packet, 'new "words"', "append", MACHINE)
    assert b'dc:description="old words new &quot;words&quot;"' in after
    assert parse(after).text(DESCRIPTION) == 'old words new "words"'


def test_an_empty_description_is_filled() -> None:
    packet = parse(EMPTY_LIST.encode())
    assert packet.text(DESCRIPTION) == ""
    assert parse(with_caption(packet, "new", "merge", MACHINE)).text(DESCRIPTION) == "new"


def test_without_a_caption_nothing_changes() -> None:
    for how in ("merge", "append", "prepend"):
        assert with_caption(parse(LIGHTROOM.encode()), "", how, MACHINE) == LIGHTROOM.encode()


def test_the_words_of_others_are_those_without_the_caption() -> None:
    packet = parse(with_caption(parse(SIMPLE.encode()), "new", "append", MACHINE))
    assert packet.words_of_others(DESCRIPTION) == "old words"
    assert packet.words_of_others(ALT_TEXT) == ""


@given(first=st.text(max_size=40), second=st.text(max_size=40))
def test_a_text_reads_back_as_written_and_can_be_changed_back(first: str, second: str) -> None:
    before = new_packet(first, MACHINE)
    changed = with_caption(parse(before), second, "overwrite", MACHINE)
    assert parse(changed).text(ALT_TEXT) == parse(changed).text(DESCRIPTION) == _NOT_XML.sub("", second)
    back = with_caption(parse(changed), first, "overwrite", MACHINE)
    assert parse(back).text(ALT_TEXT) == parse(before).text(ALT_TEXT)
    assert back.count(b"captionmill:Caption ") == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no well-formed XML"),
        (b"<a>", "no well-formed XML"),
        (b"<a/>", "no rdf:Description"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "document type or entities"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "document type or entities"),
        (LIGHTROOM.encode("utf-16"), "UTF-16"),
        (b"<a>" + b" " * 8_000_000, "more than 8000000 bytes"),
    ],
)
def test_what_is_no_packet_that_can_be_changed_safely_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FileLeft, match=message):
        parse(data)
