"""XMP packets: two fields change, everything else stays byte for byte, and what is no XMP is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import FileLeft
from producer.export.xmp import ALT_TEXT, DESCRIPTION, Provenance, new_packet, parse, with_texts

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


def test_a_new_packet_says_the_caption_its_alt_text_and_that_a_model_wrote_it() -> None:
    packet = new_packet("a dog & a <cat>", "a dog", MACHINE)
    found = parse(packet)
    assert found.text(DESCRIPTION) == "a dog & a <cat>"
    assert found.text(ALT_TEXT) == "a dog"
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in packet
    assert b"trainedAlgorithmicMedia" not in new_packet("a", "a", Provenance(None, None))


@pytest.mark.parametrize("before", [LIGHTROOM, DARKTABLE])
def test_a_caption_is_added_and_every_byte_of_other_programs_stays(before: str) -> None:
    after = with_texts(parse(before.encode()), {DESCRIPTION: "a dog", ALT_TEXT: "a dog"}, MACHINE)
    found = parse(after)
    assert (found.text(DESCRIPTION), found.text(ALT_TEXT)) == ("a dog", "a dog")
    remaining = iter(after)
    assert all(byte in remaining for byte in before.replace("/>\n</rdf:RDF>", ">\n</rdf:RDF>").encode())


def test_only_the_text_in_the_default_language_changes() -> None:
    packet = parse(LANGUAGES.encode())
    assert packet.text(DESCRIPTION) == "old"
    assert with_texts(packet, {DESCRIPTION: "new"}, None).decode() == LANGUAGES.replace(">old<", ">new<")


def test_a_description_that_is_an_attribute_is_found_and_replaced() -> None:
    packet = parse(SIMPLE.encode())
    assert packet.text(DESCRIPTION) == "old words"
    assert parse(with_texts(packet, {DESCRIPTION: "new"}, None)).text(DESCRIPTION) == "new"


def test_an_empty_description_is_filled() -> None:
    packet = parse(EMPTY_LIST.encode())
    assert packet.text(DESCRIPTION) == ""
    assert parse(with_texts(packet, {DESCRIPTION: "new"}, None)).text(DESCRIPTION) == "new"


@given(first=st.text(max_size=40), second=st.text(max_size=40))
def test_a_text_reads_back_as_written_and_can_be_changed_back(first: str, second: str) -> None:
    before = new_packet(first, "alt", MACHINE)
    changed = with_texts(parse(before), {DESCRIPTION: second}, MACHINE)
    assert with_texts(parse(changed), {DESCRIPTION: first}, MACHINE) == before
    assert parse(changed).text(ALT_TEXT) == "alt"


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
