"""What is known of one request when its last byte has gone: one struct, filled by plain appends.

Metrics, demand, spend and the stored requests are derived from it off the hot path. It holds no
prompt, no answer and no key.
"""

from copy import copy
from typing import Literal

from msgspec import Struct

from config.settings import Priority
from router.usage import Usage

Outcome = Literal["ok", "client_error", "error", "cancelled"]


class Attempt(Struct):
    """One try at one endpoint. Times are seconds of the router's clock."""

    endpoint: str
    placement: str
    began_s: float
    status: int | None = None
    error: str | None = None


class Record(Struct):
    """Times are seconds of the router's monotonic clock; None for what did not happen."""

    request_id: str
    dialect: str
    received_s: float
    began_s: float | None = None  # at `model`; None for `received_s`
    model: str = ""  # as configured; empty when the request named none that exists
    served_as: str = ""
    stream: bool = False
    placement: str = ""
    endpoint: str = ""
    reasons: list[str] = []
    attempts: list[Attempt] = []
    waited_s: float = 0.0
    cold_start: bool = False
    first_byte_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    status: int = 0
    error_code: str = ""
    asked: str = ""  # the policy or model that the caller asked for; empty for what is not its own
    policy: str = ""  # that the caller asked for; empty when it asked for a model
    rule: int = 0  # of that policy, from 1
    verdict: str = ""  # of a cascade: kept, escalated, direct, small_failed or large_failed
    mirror_of: str = ""  # the policy, for a request whose answer nobody gets
    priority: Priority = "normal"
    deadline_s: float | None = None  # how long after `received_s` it could wait for a server
    answered_by: str = ""  # the model whose servers were asked last; a fallback's is another
    usage: Usage | None = None
    usd: float = 0.0  # what an outside API charged for it
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def since_s(self) -> float:
        """When `model` was asked: the models of a cascade are asked one after the other."""
        return self.received_s if self.began_s is None else self.began_s

    def split(self, ended_s: float) -> "Record":
        """Part from what happened at one model, which has ended; what comes next begins anew."""
        earlier = copy(self)
        earlier.ended_s = ended_s
        earlier.asked = ""
        self.began_s = ended_s
        self.attempts = []
        self.reasons = self.reasons[:1]  # which rule sent it
        self.error_code = ""
        self.served_as = self.placement = self.endpoint = self.answered_by = ""
        self.cold_start = False
        self.waited_s = self.usd = 0.0
        self.first_byte_s = self.first_token_s = self.usage = None
        self.status = 0
        return earlier

    @property
    def outcome(self) -> Outcome:
        if self.error_code == "cancelled":
            return "cancelled"
        if self.error_code or self.status >= 500 or not self.status:
            return "client_error" if 400 <= self.status < 500 else "error"
        return "client_error" if self.status >= 400 else "ok"
