"""What a caller can be told instead of an answer.

GatewayError
  BadRequest             400  the request cannot be understood
  RequestTimeout         408  headers or body came too slowly
  NotFound               404  no such path, or no such response id
  UnknownModel           404  no such model; the message lists near names
  MethodNotAllowed       405
  TooLarge               413  the body is over the limit
  UnsupportedMedia       415  neither JSON nor multipart
  HeadTooLarge           431
  Saturated              429  endpoints exist, but the queue is full or its time ran out
  BudgetSpent            429  the day's budget is spent, of the model or in all
  ModelStarting          503  a cold start is going on and the caller cannot wait for its end
  ModelUnavailable       503  a start failed, or no endpoint is healthy
  ShuttingDown           503
  UpstreamFailed         502  the backend refused or died before any byte, retries spent
  UpstreamTimeout        504  the backend was silent past the limit
  ResponseLost           502  the backend died in the middle of its answer
    ResponseStalled      504  it fell silent there
  Forbidden              403  the admin API without its key
  Denied                 403  a rule of a policy refuses the request

Each carries what the wire needs; only `proxy` renders it. `reason` is the machine-readable value
of the header `x-lamplighter-reason`.
"""


class GatewayError(Exception):
    """`retry` is the value of x-should-retry (None leaves it to the SDK's own rule)."""

    status = 500
    type = "server_error"
    code = "internal_error"
    retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code

    @property
    def reason(self) -> str:
        return self.code.replace("_", "-")


class BadRequest(GatewayError):
    status, type, code, retry = 400, "invalid_request_error", "invalid_value", False


class RequestTimeout(GatewayError):
    status, type, code, retry = 408, "invalid_request_error", "request_timeout", True


class NotFound(GatewayError):
    status, type, code, retry = 404, "invalid_request_error", "not_found", False


class UnknownModel(NotFound):
    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    status, type, code, retry = 405, "invalid_request_error", "method_not_allowed", False


class TooLarge(GatewayError):
    status, type, code, retry = 413, "invalid_request_error", "request_too_large", False

    @classmethod
    def than(cls, limit: int) -> "TooLarge":
        """`limit` in bytes."""
        return cls(f"the body is over the limit of {limit} bytes (server.max_body)")


class HeadTooLarge(GatewayError):
    status, type, code, retry = 431, "invalid_request_error", "headers_too_large", False


class UnsupportedMedia(GatewayError):
    status, type, code, retry = 415, "invalid_request_error", "unsupported_media_type", False


class Forbidden(GatewayError):
    status, type, code, retry = 403, "permission_error", "admin_key_required", False


class Denied(GatewayError):
    status, type, code, retry = 403, "permission_error", "denied_by_policy", False


class Saturated(GatewayError):
    status, type, code = 429, "rate_limit_error", "saturated"


class BudgetSpent(GatewayError):
    # As OpenAI says it; the SDKs obey x-should-retry and leave it.
    status, type, code, retry = 429, "insufficient_quota", "budget_exceeded", False


class ModelStarting(GatewayError):
    status, type, code = 503, "service_unavailable", "model_starting"


class ModelUnavailable(GatewayError):
    status, type, code = 503, "service_unavailable", "model_unavailable"


class ShuttingDown(GatewayError):
    status, type, code = 503, "service_unavailable", "shutting_down"


class UpstreamFailed(GatewayError):
    status, type, code = 502, "server_error", "upstream_error"


class UpstreamTimeout(GatewayError):
    status, type, code = 504, "server_error", "upstream_timeout"


class ResponseLost(GatewayError):
    status, type, code = 502, "server_error", "response_lost"


class ResponseStalled(ResponseLost):
    status, type, code = 504, "server_error", "upstream_timeout"
