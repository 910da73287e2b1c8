"""Which headers cross the gateway, in both directions."""

from collections.abc import Callable
from functools import lru_cache

from router.request import Headers, Request

NAMES_REMEMBERED = 500

HOP_BY_HOP = frozenset(
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
_NOT_SENT_ON = HOP_BY_HOP | {
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
_NOT_RETURNED = HOP_BY_HOP | {
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


class _Crossing(dict[bytes, bool]):
    """Whether a header of this name crosses; each name is judged once. Callers choose names."""

    def __init__(self, judge: Callable[[bytes], bool]) -> None:
        super().__init__()
        self._judge = judge

    def __missing__(self, name: bytes) -> bool:
        crosses = self._judge(name)
        if len(self) < NAMES_REMEMBERED:
            self[name] = crosses
        return crosses


def _goes_inside(name: bytes) -> bool:
    return name not in _NOT_SENT_ON and not name.startswith(_PREFIXES_NOT_SENT_ON)


def _goes_outside(name: bytes) -> bool:
    return name in _SENT_OUTSIDE or name.startswith(_PREFIXES_SENT_OUTSIDE)


def _comes_back(name: bytes) -> bool:
    return name not in _NOT_RETURNED and not name.startswith(_PREFIXES_NOT_RETURNED)


_INSIDE = _Crossing(_goes_inside)
_OUTSIDE = _Crossing(_goes_outside)
_BACK = _Crossing(_comes_back)


def sent_on(request: Request, *, key: str | None, outside: bool) -> Headers:
    """The request headers for a model server; `outside` for one that is not our own."""
    crosses = _OUTSIDE if outside else _INSIDE
    headers = [header for header in request.headers if crosses[header[0]]]
    if b"connection" in request.fields and (named := named_in_connection(request.headers)):
        headers = [header for header in headers if header[0] not in named]
    headers.append((b"x-request-id", request.id.encode()))
    headers.append((b"accept-encoding", _accepted_encoding(request)))
    if key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
        if request.dialect == "messages":
            headers.append((b"x-api-key", key.encode()))
    return headers


def named_in_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that the Connection headers declare to be for this hop only (RFC 9110, 7.6.1)."""
    values = [value.lower() for name, value in headers if name == b"connection"]
    tokens = (token.strip() for value in values for token in value.split(b","))
    return frozenset(tokens) - {b"", b"keep-alive", b"close"}


def _accepted_encoding(request: Request) -> bytes:
    """A stream must not sit in a compressor's buffer; gzip is all that the meter reads."""
    if not request.stream and b"gzip" in request.fields.get(b"accept-encoding", b"").lower():
        return b"gzip"
    return b"identity"


def returned(headers: Headers) -> Headers:
    """The response headers for the caller, without those that frame the body."""
    return [header for header in headers if _BACK[header[0]]]


@lru_cache(maxsize=10_000)
def who_answered(model: str, served_as: str, placement: str, endpoint: str) -> bytes:
    """Header lines about the answerer, written once for all its answers."""
    return (
        b"x-lamplighter-model: %b\r\nx-lamplighter-served-model: %b\r\n"
        b"x-lamplighter-placement: %b\r\nx-lamplighter-instance: %b\r\n"
    ) % (ascii_value(model), ascii_value(served_as), placement.encode(), ascii_value(endpoint))


def how_answered(cold_start: bool, wait_ms: int, attempts: int) -> bytes:
    """Header lines about the way to one answer."""
    return (
        b"x-lamplighter-cold-start: %b\r\nx-lamplighter-wait-ms: %d\r\n"
        b"x-lamplighter-attempts: %d\r\n"
    ) % (b"true" if cold_start else b"false", wait_ms, attempts)


@lru_cache(maxsize=1000)
def by_policy(policy: str, rule: int) -> bytes:
    """Header lines about the rule that an answer follows."""
    return b"x-lamplighter-policy: %b\r\nx-lamplighter-rule: %d\r\n" % (ascii_value(policy), rule)


def ascii_value(text: str) -> bytes:
    """Names may hold any printable character; header values hold ASCII."""
    return text.encode("ascii", "backslashreplace")
