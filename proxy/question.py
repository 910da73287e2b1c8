"""From a path, headers and a body to the request that is explained, as it would be read live."""

from collections.abc import Iterable

import msgspec
from msgspec import Raw

from proxy.control_call import is_control
from proxy.head import Head
from proxy.inbound import read_request, request_id, route, unpacked
from router.body import UNREADABLE
from router.errors import BadRequest
from router.headers import HOP_BY_HOP
from router.request import Headers, Request

# Of fields that only one dialect has; the first that is in the body tells its path.
_PATHS = (
    ("messages", "/v1/chat/completions"),
    ("prompt", "/v1/completions"),
    ("input", "/v1/responses"),
    ("query", "/v1/rerank"),
    ("text_1", "/v1/score"),
)
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_AUTHORIZATION = b"x-authorization"
_OF_THE_CALL = HOP_BY_HOP | {
    b"authorization",
    _AUTHORIZATION,
    b"content-encoding",
    b"content-length",
    b"host",
}


def question(body: bytes, headers: Headers, path: str | None = None) -> Request:
    """Raises GatewayError. Without a `path` the body's fields tell it."""
    fields = dict(headers)
    if b"content-type" not in fields:
        headers = [*headers, (b"content-type", b"application/json")]
    target = (path or _path_of(body)).encode("ascii", "backslashreplace")
    head = Head("POST", target, headers, "1.1", keep_alive=True)
    if is_control(head.path):
        raise BadRequest(f"{head.path} is no inference, so there is nothing to explain")
    found = route(head)
    request = read_request(head, found, body, request_id(head))
    if request.body is None:
        raise BadRequest("only a call that names a model is explained", param="path")
    return request


async def forwarded_question(
    body: bytes, headers: Headers, path: str | None, max_body: int
) -> Request:
    """From a call to the admin API, whose headers are the request's but for a few.

    Its `authorization` is the operator's; that of the request stands in `x-authorization`.
    Raises GatewayError.
    """
    fields = dict(headers)
    encoding = fields.get(b"content-encoding")
    if encoding is not None:
        body = await unpacked(body, encoding, max_body)
    own = [header for header in headers if header[0] not in _OF_THE_CALL]
    if _AUTHORIZATION in fields:
        own.append((b"authorization", fields[_AUTHORIZATION]))
    return question(body, own, path)


def _path_of(body: bytes) -> str:
    """That of chat where nothing else is told: the reader says what is wrong with the body."""
    try:
        fields = _FIELDS.decode(body)
    except UNREADABLE:
        fields = {}
    return next((path for field, path in _PATHS if field in fields), _PATHS[0][1])


def headers_of(pairs: Iterable[tuple[str, str]]) -> Headers:
    """As a parser gives them: names in lower case, no space around values."""
    return [
        (name.strip().lower().encode("latin-1"), value.strip().encode("utf-8"))
        for name, value in pairs
    ]
