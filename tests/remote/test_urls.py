"""Which URLs are taken, and that nothing secret is stored or shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import UrlRefused
from captioning.remote import checked_url, is_prefix, root_of


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (b"https://Example.COM:443/a/b.jpg", b"https://example.com/a/b.jpg"),
        (b" https://example.com:8443/a.jpg#part ", b"https://example.com:8443/a.jpg"),
        (b"HTTPS://example.com/a.jpg?w=640&format=webp", b"https://example.com/a.jpg?w=640&format=webp"),
        ("https://bücher.example/é.jpg".encode(), "https://xn--bcher-kva.example/é.jpg".encode()),
        (b"https://[2001:DB8::1]/a.jpg", b"https://[2001:db8::1]/a.jpg"),
        (b"s3://photos", b"s3://photos"),
        (b"s3://photos/", b"s3://photos"),
        (b"s3://photos/2024/", b"s3://photos/2024/"),
        (b"s3://photos/my cat.jpg", b"s3://photos/my cat.jpg"),
        (b"S3://photos/a?b#c=1.jpg", b"s3://photos/a?b#c=1.jpg"),
        (b"gs://photos_2.example.com/a.jpg", b"gs://photos_2.example.com/a.jpg"),
    ],
)
def test_a_url_is_stored_in_one_form(given: bytes, stored: bytes) -> None:
    assert checked_url(given) == stored
    assert checked_url(stored) == stored


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (b"https://user:hunter2@example.com/a.jpg", "https://example.com: a URL with a user or a password"),
        (b"s3://AKIA:hunter2@photos/a.jpg", "s3://photos: a URL with a user or a password"),
        (b"https://x/a.jpg?X-Amz-Signature=hunter2", "parameter X-Amz-Signature may be a secret"),
        (b"https://x/a.jpg?w=1&X-Goog-Credential=hunter2", "parameter X-Goog-Credential may be a secret"),
        (b"https://x/a.jpg?sv=2022&sig=hunter2", "parameter sig may be a secret"),
        (b"https://x/a.jpg?Signature=hunter2&Key-Pair-Id=K", "parameter Signature may be a secret"),
        (b"https://x/a.jpg?access_token=hunter2", "parameter access_token may be a secret"),
        (b"https://x/a.jpg?api_key=hunter2", "parameter api_key may be a secret"),
        (b"https://x/a.jpg;x?a=1;token=hunter2", "parameter token may be a secret"),
        (b"https://x/a.jpg?%74oken=hunter2", "parameter token may be a secret"),
        (b"http://example.com/a.jpg", "http is not encrypted; use https"),
        (b"https://example.com/", "names a server and no file"),
        (b"https://example.com", "names a server and no file"),
        (b"https:///a.jpg", "not a valid host"),
        (b"https://exa mple.com/a.jpg", "no blanks"),
        (b"https://example.com/a\x1b[31m.jpg", "no control characters"),
        (b"https://example.com:99999/a.jpg", "not a valid URL"),
        (b"https://[::1/a.jpg", "not a valid URL"),
        (b"https://example.com/a/../b.jpg", "must not contain . or .."),
        (b"https://example.com/a/%2e%2e/b.jpg", "must not contain . or .."),
        (b"s3://arn:aws:s3:::photos/a.jpg", "not the name of a bucket"),
        (b"s3:///a.jpg", "not the name of a bucket"),
        (b"s3://photos/a//b.jpg", "cannot be a path"),
        (b"s3://photos/../a.jpg", "cannot be a path"),
    ],
)
def test_a_url_that_is_refused_gets_one_line_without_the_secret(url: bytes, message: str) -> None:
    with pytest.raises(UrlRefused) as raised:
        checked_url(url)
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_bucket_or_a_folder_is_a_prefix_and_a_file_is_none() -> None:
    assert [is_prefix(url) for url in (b"s3://b", b"gs://b/x/", b"s3://b/x.jpg", b"https://h/x/")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert root_of(b"s3://b/x/y.jpg") == b"s3://b"
    assert root_of(b"https://h:1/x/y.jpg?a=/b") == b"https://h:1"


@given(st.text(max_size=60), st.sampled_from(["https", "s3", "gs"]))
def test_any_text_is_refused_or_has_one_stored_form_below_its_root(text: str, scheme: str) -> None:
    try:
        url = checked_url(f"{scheme}://{text}".encode())
    except UrlRefused as error:
        url, message = b"", str(error)
    else:
        message = ""
    assert "\n" not in message
    if not url:
        return
    assert checked_url(url) == url
    assert url.startswith(root_of(url))
    assert b"@" not in root_of(url)
