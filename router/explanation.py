"""The object that explains what becomes of a request: what stands in it, and no word of its text.

It is the same from the command, from `POST /admin/explain` and in place of an answer. Money is
USD, durations are seconds; None stands for what does not apply, or what nobody can tell.
"""

from typing import Any, Literal

from msgspec import Struct

from config.settings import Priority
from policies.arrival import Kind
from policies.facts import HowCounted
from router.prices import Basis

Role = Literal["model", "split", "small", "large", "fallback", "overflow"]
State = Literal[
    "ready", "full", "starting", "waking", "asleep", "off", "failed", "draining", "down"
]
HowGuessed = Literal["known", "max_tokens", "mean", "guess"]


class Asked(Struct, frozen=True):
    """The request, as far as it may be shown.

    `affinity` is a hash: requests with the same one prefer the same model and the same server.
    """

    model: str
    path: str
    dialect: str
    stream: bool
    bytes: int
    affinity: str | None


class Line(Struct, frozen=True):
    """One line of the file as it is written there, counted from 1."""

    line: int
    text: str


class RuleTried(Struct, frozen=True):
    """A rule that was looked at: `why` says what matched, or the fact that failed it."""

    rule: int
    name: str | None
    line: int
    matched: bool
    why: str


class Decision(Struct, frozen=True):
    """What is to be done: by the rule that matched, or with the model that the caller named.

    `model` is asked first of `models`. `set` is added to the request.
    """

    rule: int | None
    use: Literal["model", "split", "cascade", "deny"]
    models: tuple[str, ...]
    model: str | None
    why: str
    priority: Priority | None = None
    max_wait_s: float | None = None
    retries: int | None = None
    set: dict[str, Any] = {}
    mirror_to: str | None = None
    mirror_share: float = 0.0


class CascadeOutlook(Struct, frozen=True):
    """What the cascade would do. `p_escalate` is how likely the large model is asked after all.

    Where answers cannot be `judged`, the large model is asked and nobody else.
    `keeps` says which answers of the small model stay: those from the score `threshold` on, all or
    none, which `rests_on` what was promised. `calibration` says where it comes from, of so many
    `labels`. `usd` is what the request is expected to cost in all.
    """

    first: Literal["small", "large"]
    why: str
    judged: bool
    p_escalate: float
    keeps: Literal["all", "none", "from_threshold"]
    threshold: float | None
    rests_on: str
    calibration: str
    labels: int
    max_wrong: float | None
    small_usd: float
    large_usd: float
    usd: float
    large_wait_s: float | None


class Way(Struct, frozen=True):
    """One of the places where a model can be answered, and how soon."""

    kind: Kind
    state: State
    wait_s: float | None


class Candidate(Struct, frozen=True):
    """A model that may answer. `state` and `wait_s` are of its own servers, if it has any.

    `input_tokens` are those of the prompt as this model counts them, `output_tokens` those that its
    answer is expected to have. `usd` is what this request is expected to cost there, as models are
    compared, by the price that `priced_by` names; `api_usd` what its outside API would charge,
    `gpu_s` how long the request alone would keep one of its servers busy, `start_usd` what the
    start or the wake costs that it needs now.
    """

    model: str
    role: Role
    weight: float | None
    state: State
    wait_s: float | None
    usd: float
    priced_by: Basis
    api_usd: float | None
    gpu_s: float | None
    start_usd: float
    input_tokens: int
    counted_by: HowCounted
    output_tokens: int
    guessed_by: HowGuessed
    ways: tuple[Way, ...]


class Place(Struct, frozen=True):
    """One place that would be asked, in order. `queue` says whether to wait there for room.

    It answers in the place of `instead_of` where that is another model; `start` says whether to
    start that one meanwhile, where that was weighed.
    """

    model: str
    kind: Kind
    queue: bool
    instead_of: str | None
    start: bool | None
    why: str


class Choice(Struct, frozen=True):
    """Who answers, if nothing changes until then.

    `in_time` is False where the wait is longer than the caller has: it is held none the less, and
    gets an error when its time is over. `usd` is without the start; of a cascade, in all.
    """

    model: str
    kind: Kind
    wait_s: float | None
    in_time: bool | None
    usd: float
    start_usd: float
    why: str


class Refusal(Struct, frozen=True):
    """The error that the caller would get."""

    status: int
    code: str
    message: str


class Explanation(Struct, frozen=True):
    """`policy`, `text` and `rules` are empty where the name is that of a model.

    `choice` is the one of `places` that is asked first; there is none where there is a `refusal`.
    """

    at: str
    request: Asked
    decision: Decision
    policy: str | None = None
    text: tuple[Line, ...] = ()
    rules: tuple[RuleTried, ...] = ()
    cascade: CascadeOutlook | None = None
    candidates: tuple[Candidate, ...] = ()
    places: tuple[Place, ...] = ()
    choice: Choice | None = None
    refusal: Refusal | None = None
