"""Where two configurations send one request, and what that changes in cost and wait."""

from collections.abc import Iterable

from msgspec import Struct

from router.errors import GatewayError
from router.explain import explain
from router.explanation import Explanation
from router.planner import OUTPUT_GUESS
from router.request import Request
from router.routing import Router
from router.row_facts import KeptRow, RowFacts


class Side(Struct, frozen=True):
    """What becomes of a request by one configuration.

    `to` says who answers, or with which error it is refused. `usd` is 0 for what is refused,
    `wait_s` None for that and where nobody can tell.
    """

    to: str
    rule: str | None
    usd: float
    wait_s: float | None


class Compared(Struct, frozen=True):
    """`number` is that of the request in its file."""

    number: int
    asked: str
    old: Side
    new: Side

    @property
    def moved(self) -> bool:
        return self.old.to != self.new.to

    @property
    def more_usd(self) -> float:
        return self.new.usd - self.old.usd

    @property
    def longer_s(self) -> float | None:
        """How much longer the wait gets; None where it is not known on both sides."""
        if self.old.wait_s is None or self.new.wait_s is None:
            return None
        return self.new.wait_s - self.old.wait_s


class Sums(Struct, frozen=True):
    """Of many requests; waits are added up over those of which both are known, `waits` many."""

    requests: int
    old_usd: float
    new_usd: float
    waits: int
    old_wait_s: float
    new_wait_s: float


async def side(router: Router, request: Request, at_s: float, row: KeptRow | None) -> Side:
    """`row` is what is left of the request, where that is all. Raises NotTold then."""
    facts, output_tokens = router.facts(request, at_s, asks_servers=False), None
    if row is not None:
        facts = RowFacts(facts, row)
        told = row.output_tokens
        output_tokens = told if told is not None else round(OUTPUT_GUESS)
    try:
        return _side(await explain(router, request, facts, output_tokens))
    except GatewayError as error:
        return Side(_refused(error.status, error.code), None, 0.0, None)


def sums(compared: Iterable[Compared]) -> Sums:
    found = list(compared)
    waits = [(c.old.wait_s, c.new.wait_s) for c in found]
    known = [(old, new) for old, new in waits if old is not None and new is not None]
    return Sums(
        requests=len(found),
        old_usd=sum(each.old.usd for each in found),
        new_usd=sum(each.new.usd for each in found),
        waits=len(known),
        old_wait_s=sum(old for old, _ in known),
        new_wait_s=sum(new for _, new in known),
    )


def _side(found: Explanation) -> Side:
    number = found.decision.rule
    rule = next((r.name or str(r.rule) for r in found.rules if r.rule == number), None)
    if found.choice is None:
        assert found.refusal is not None
        refusal = found.refusal
        return Side(_refused(refusal.status, refusal.code), rule, 0.0, None)
    choice = found.choice
    to = f"{choice.model} ({choice.kind})"
    if found.cascade is not None:
        to = f"{to}, cascade {' > '.join(found.decision.models)}"
    return Side(to, rule, choice.usd, choice.wait_s)


def _refused(status: int, code: str) -> str:
    return f"refused: {status} {code}"
