"""What may be written on a connection, and which base URLs there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.upstream import Origin
from backends.upstream_request import request_head


def test_head_is_written_in_order() -> None:
    head = request_head("POST", b"/v1/x?a=b", b"h:1", [(b"A", b"1"), (b"b", b"")], 3)
    assert head == (
        b"POST /v1/x?a=b HTTP/1.1\r\nhost: h:1\r\nA: 1\r\nb: \r\ncontent-length: 3\r\n\r\n"
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_empty_body_of_a_writing_method_has_length_zero(method: str) -> None:
    assert b"content-length: 0\r\n" in request_head(method, b"/", b"h", [], 0)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_empty_body_of_a_reading_method_has_no_length(method: str) -> None:
    assert b"content-length" not in request_head(method, b"/", b"h", [], 0)


@pytest.mark.parametrize(
    "header",
    [
        (b"a", b"b\r\nc: d"),
        (b"a", b"b\nc"),
        (b"a", b"b\rc"),
        (b"a", b"b\0c"),
        (b"a\r\nb", b"c"),
        (b"a b", b"c"),
        (b"a:", b"c"),
        (b"", b"c"),
        (b"\xe9", b"c"),
        (b"Host", b"other"),
        (b"content-Length", b"9"),
        (b"connection", b"close"),
        (b"Transfer-Encoding", b"chunked"),
        (b"expect", b"100-continue"),
    ],
)
def test_header_that_could_break_the_framing_is_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="header"):
        request_head("GET", b"/", b"h", [(b"fine", b"1"), header], 0)


@pytest.mark.parametrize("target", [b"", b"/a b", b"/a\r\nb", b"/a\tb", b"/\0", b"/\x7f", b"/\xe9"])
def test_target_with_more_than_visible_ascii_is_refused(target: bytes) -> None:
    with pytest.raises(ValueError, match="target"):
        request_head("GET", target, b"h", [], 0)


@pytest.mark.parametrize("method", ["", "G T", "GET\r\n", "G\xe9T"])
def test_method_that_is_no_token_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="method"):
        request_head(method, b"/", b"h", [], 0)


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=6))
def test_any_header_is_refused_or_stays_one_line(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        head = request_head("GET", b"/", b"h", headers, 0)
    except ValueError:
        return
    lines = head.split(b"\r\n")
    assert lines[2:-2] == [name + b": " + value for name, value in headers]
    assert not any(b"\n" in line or b"\r" in line for line in lines)


@pytest.mark.parametrize(
    ("url", "host", "port", "header", "prefix"),
    [
        ("http://a", "a", 80, b"a", b""),
        ("http://A.example:8000/v1/", "a.example", 8000, b"a.example:8000", b"/v1"),
        ("https://api.example/x/v1", "api.example", 443, b"api.example", b"/x/v1"),
        ("https://api.example:80", "api.example", 80, b"api.example:80", b""),
        ("http://[::1]:9/v1", "::1", 9, b"[::1]:9", b"/v1"),
        ("http://[::1]", "::1", 80, b"[::1]", b""),
        ("http://b\xfccher.example", "xn--bcher-kva.example", 80, b"xn--bcher-kva.example", b""),
    ],
)
def test_base_url_is_taken_apart(
    url: str, host: str, port: int, header: bytes, prefix: bytes
) -> None:
    origin = Origin(url)
    assert (origin.peer.host, origin.peer.port) == (host, port)
    assert (origin.host, origin.target_prefix) == (header, prefix)
    assert (origin.peer.tls is not None) == url.startswith("https")


@pytest.mark.parametrize(
    "url",
    ["a:80", "ftp://a", "http://", "http://u:p@a", "http://a/?q=1", "http://a/#f", "http://a:x"]
    + ["http://a/b c", "http://a/\xe9", "http://a b/", "http://a:70000"],
)
def test_url_that_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|Port|port"):
        Origin(url)
