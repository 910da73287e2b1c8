"""What can go wrong between the gateway and one model server.

    UpstreamError
      ConnectFailed     refused, unreachable, unknown name, TLS refused   | no byte of the
      ConnectTimeout    no connection in time                             | request was sent
      NoAnswer          closed or reset before the head of the response was complete
      FirstByteTimeout  no complete head in time
      IdleTimeout       nothing more of the body in time
      ResponseCut       closed or reset before the announced end of the body
      BadResponse       not HTTP/1.1, or larger than a head may be

Messages name host and port and the reason, never a header, a body or a key: callers may see them.
"""

from typing import Literal

Stage = Literal["connect", "head", "body"]


class UpstreamError(Exception):
    """`stage` says how far the exchange came."""

    stage: Stage


class ConnectFailed(UpstreamError):
    """`refused`: the host is there and nothing listens on the port."""

    stage = "connect"

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class ConnectTimeout(UpstreamError):
    stage = "connect"


class NoAnswer(UpstreamError):
    stage = "head"


class FirstByteTimeout(UpstreamError):
    stage = "head"


class IdleTimeout(UpstreamError):
    stage = "body"


class ResponseCut(UpstreamError):
    stage = "body"


class BadResponse(UpstreamError):
    def __init__(self, message: str, stage: Stage = "head") -> None:
        super().__init__(message)
        self.stage = stage
