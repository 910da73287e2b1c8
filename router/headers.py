"""Which headers cross the gateway, in both directions."""

from router.request import Headers, Request

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# A caller's credentials are for the gateway alone; the transport writes host and content-length;
# the body goes out decoded; the gateway decides about compression.
_NOT_SENT_ON = _HOP_BY_HOP | {
    b"authorization",
    b"x-api-key",
    b"api-key",
    b"cookie",
    b"host",
    b"content-length",
    b"content-encoding",
    b"accept-encoding",
    b"expect",
    b"x-request-id",
    b"forwarded",
    b"x-real-ip",
}
_PREFIXES_NOT_SENT_ON = (b"x-lamplighter-", b"x-forwarded-", b"proxy-", b"sec-")
# Somebody else's server gets only what the protocol needs.
_SENT_OUTSIDE = frozenset(
    {b"content-type", b"accept", b"user-agent", b"idempotency-key", b"traceparent", b"tracestate"}
)
_PREFIXES_SENT_OUTSIDE = (b"openai-", b"anthropic-", b"x-stainless-")
_NOT_RETURNED = _HOP_BY_HOP | {
    b"content-length",
    b"set-cookie",
    b"server",
    b"date",
    b"x-request-id",
    b"x-powered-by",
    b"via",
    b"alt-svc",
    b"strict-transport-security",
}
# Who may call from a browser is the gateway's to say, not the model server's.
_PREFIXES_NOT_RETURNED = (b"x-lamplighter-", b"access-control-")


def sent_on(request: Request, *, key: str | None, outside: bool) -> Headers:
    """The request headers for a model server; `outside` for one that is not our own."""
    connection = _named_in_connection(request.headers)
    headers = [
        (name, value)
        for name, value in request.headers
        if _crosses(name, outside) and name not in connection
    ]
    headers.append((b"x-request-id", request.id.encode()))
    headers.append((b"accept-encoding", _accepted_encoding(request)))
    if key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
        if request.dialect == "messages":
            headers.append((b"x-api-key", key.encode()))
    return headers


def _crosses(name: bytes, outside: bool) -> bool:
    if outside:
        return name in _SENT_OUTSIDE or name.startswith(_PREFIXES_SENT_OUTSIDE)
    return name not in _NOT_SENT_ON and not name.startswith(_PREFIXES_NOT_SENT_ON)


def _named_in_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that the Connection header declares to be for this hop only (RFC 9110, 7.6.1)."""
    for name, value in headers:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            return frozenset(token.strip().lower() for token in value.split(b","))
    return frozenset()


def _accepted_encoding(request: Request) -> bytes:
    """A stream must not sit in a compressor's buffer; gzip is all that the meter reads."""
    if not request.stream:
        for name, value in request.headers:
            if name == b"accept-encoding" and b"gzip" in value.lower():
                return b"gzip"
    return b"identity"


def returned(headers: Headers) -> Headers:
    """The response headers for the caller, without those that frame the body."""
    return [
        (name, value)
        for name, value in headers
        if name not in _NOT_RETURNED and not name.startswith(_PREFIXES_NOT_RETURNED)
    ]


def ascii_value(text: str) -> bytes:
    """Names may hold any printable character; header values hold ASCII."""
    return text.encode("ascii", "backslashreplace")
