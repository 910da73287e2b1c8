"""What cascades know over many requests: their calibrations, and how long each model takes.

Each request gets a `Course` of its own, through which its cascade reaches the gateway.
"""

import asyncio
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from config.policy import Accept
from policies.agreement import agreement
from policies.cascade import Terms, Verdict
from policies.reply import Reply
from policies.signals import Signals, first_signals
from router.asking import Begin, once_more
from router.cascade import Foreseen
from router.embedder import embedder
from router.journey import Journey
from router.judges import BY_DEFAULT, Judge
from router.labels import Judged, Labels
from router.places import Places, answers_now
from router.planners import Planners
from router.prices import Prices
from router.record import Record
from router.request import Request
from router.route import Route
from router.shadows import Shadows, chosen

SAMPLED_AT = 0.8  # temperature
LAST_WEIGHT = 0.1  # of the last answer in the running mean of how long they take
JUDGED_TELL = 30  # verdicts, before their shares are believed
LAST_VERDICT = 0.01  # weight of the last one, once many were given
EXPLORED = 0.01  # share of requests for which the small model is asked although it is not worth it
_NO_ACCEPT = Accept()


class Cascades:
    """Of one gateway. `begin` starts a journey to one model, `ended` hears of each that is over
    while the caller's request goes on."""

    def __init__(
        self,
        planners: Planners,
        clock: Callable[[], float],
        begin: Begin,
        ended: Callable[[Record], None],
        labels: Labels,
        shadows: Shadows,
    ) -> None:
        self.planners = planners
        self.clock = clock
        self.begin = begin
        self.ended = ended
        self.labels = labels
        self.shadows = shadows
        self._judges: Mapping[str, Judge] = {}
        self._took_s: dict[str, float] = {}
        self._escalated: dict[tuple[str, int], tuple[int, float]] = {}  # of how many, which share

    def follow(self, judges: Mapping[str, Judge]) -> None:
        """Judge by these from now on, each by the file that it came from."""
        self._judges = judges
        self._escalated.clear()  # rules have other numbers now, and other judges

    async def load(self) -> None:
        """Have the embedder ready if one will be asked: loading it takes most of a second."""
        embeds = embedder()
        if embeds is not None and any(
            judge.neighbours is not None for judge in self._judges.values()
        ):
            await embeds.embed(["ready?"])

    def course(self, route: Route) -> "LiveCourse":
        accept = route.use.accept or _NO_ACCEPT
        judge = self._judges.get(accept.calibration, BY_DEFAULT) if accept.calibration else None
        return LiveCourse(self, route, accept, judge or BY_DEFAULT)

    def took_s(self, small: str, large: str) -> tuple[float, float]:
        """How long their answers take once they are begun; 0 until both were measured."""
        known = self._took_s
        return (known[small], known[large]) if small in known and large in known else (0.0, 0.0)

    def note(self, policy: str, rule: int, kept: bool) -> None:
        count, share = self._escalated.get((policy, rule), (0, 0.0))
        share += (float(not kept) - share) * max(1 / (count + 1), LAST_VERDICT)
        self._escalated[policy, rule] = count + 1, share

    def escalated(self, policy: str, rule: int) -> float | None:
        """The share of answers that were not kept of late; None before there were enough."""
        count, share = self._escalated.get((policy, rule), (0, 0.0))
        return share if count >= JUDGED_TELL else None

    def finished(self, record: Record) -> None:
        """A request to one model has ended."""
        if not record.verdict or record.ended_s is None or record.status != 200:
            return
        took_s = record.ended_s - record.since_s - record.waited_s
        known_s = self._took_s.get(record.model, took_s)
        self._took_s[record.model] = known_s + LAST_WEIGHT * (took_s - known_s)


class LiveCourse:
    """Satisfies `router.cascade.Course` for one request."""

    def __init__(self, cascades: Cascades, route: Route, accept: Accept, judge: Judge) -> None:
        assert route.use.cascade is not None
        self.calibration = judge.calibration
        self._judge = judge
        self._cascades = cascades
        self._route = route
        self._accept = accept
        self._small, self._large = route.use.cascade
        self._labelled = cascades.shadows.labels(route)

    @property
    def explores(self) -> bool:
        """For requests from which is to be learned, and a few others; never through a start."""
        chance = self._labelled or chosen(EXPLORED)
        return chance and answers_now(self._route.snapshot.backends[self._small])

    def p_escalate(self, foreseen: Foreseen | None) -> float | None:
        """By the neighbours of the prompt, else by what became of the last answers."""
        if foreseen is not None:
            return foreseen.escalated
        return self._cascades.escalated(self._route.policy, self._route.rule.number)

    @property
    def whole_only(self) -> bool:
        return self._accept.self_check or self._accept.samples > 1 or self._labelled

    def journey(self, request: Request, record: Record, model: str, held_back: bool) -> Journey:
        leg = self._route.leg(model, held_back=held_back)
        return self._cascades.begin(self._route.snapshot, request, record, leg)

    def part(self, record: Record) -> None:
        earlier = record.split(self._cascades.clock())
        self._cascades.ended(earlier)

    def terms(self, record: Record, output_tokens: int | None) -> Terms:
        route, cascades = self._route, self._cascades
        settings = route.prepared.settings[self._large]
        planner = cascades.planners.get(self._large)
        # Without labels nobody knows how likely an escalation is, and so what the time is worth.
        known = self.calibration.labels > 0
        small_s, large_s = cascades.took_s(self._small, self._large) if known else (0.0, 0.0)
        asked = route.leg(self._large).asked(route.request, record.received_s)
        left_s = asked.deadline_s - cascades.clock()
        terms = Terms(
            small_usd=self._usd(self._small, output_tokens),
            large_usd=self._usd(self._large, output_tokens),
            small_s=self._wait_s(self._small, record) + small_s,
            large_s=large_s,
            large_wait_s=self._wait_s(self._large, record),
            left_s=max(left_s, 0.0) + large_s,  # max_wait ends when a server is ready
            delay_usd_s=settings.delay_hour / 3600,
            max_wrong=self._accept.max_wrong,
            right_answer_usd=self._accept.right_answer,
        )
        return terms if planner is None else replace(terms, budget=planner.allowance)

    def _usd(self, model: str, output_tokens: int | None) -> float:
        """What the request costs there; without `output_tokens` by what is to be expected."""
        facts = self._route.facts
        prices = Prices(self._route.snapshot.config, self._cascades.planners)
        expected: float | None = output_tokens
        if expected is None:
            expected = prices.output_tokens(model, facts.output_tokens)
        return prices.expected_usd(model, facts.input_tokens(model).tokens, expected)

    def _wait_s(self, model: str, record: Record) -> float:
        route, cascades = self._route, self._cascades
        asked = route.leg(model).asked(route.request, record.received_s)
        return Places(route.snapshot, model, asked, cascades.planners, cascades.clock).wait_s()

    @property
    def prompt(self) -> str:
        return self._route.facts.text

    async def foreseen(self) -> Foreseen | None:
        found = await self._judge.foresee(self.prompt)
        return Foreseen(found.small_right, found.escalated) if found is not None else None

    async def asked_again(
        self, request: Request, reply: Reply
    ) -> tuple[float | None, float | None]:
        accept, route = self._accept, self._route
        leg, asking = route.leg(self._small), self._cascades.shadows.asking
        # Not the same sample again: at temperature 0 all of them agree.
        varied = {"temperature": SAMPLED_AT, "seed": None}
        again = [once_more(request, varied) for _ in range(accept.samples - 1)]
        questions = [asking.reply(route.snapshot, leg, each) for each in again if each is not None]
        check = asking.is_right(route.snapshot, leg, request, reply) if accept.self_check else None
        samples, certainty = await asyncio.gather(asyncio.gather(*questions), check or _unknown())
        return certainty, agreement(reply, [sample for sample in samples if sample is not None])

    def note(self, record: Record, found: Signals, verdict: Verdict, reply: Reply) -> None:
        self._cascades.note(self._route.policy, self._route.rule.number, verdict.keep)
        first = first_signals(reply)
        judged = Judged(self._route.policy, self._small, self._large, verdict.keep, found, first)
        self._cascades.labels.remember(record.request_id, judged)
        if not self._labelled:
            return
        if found.valid is False:  # nobody need be asked whether it was right
            self._cascades.labels.label(judged, "schema", False, None)
        else:
            self._cascades.shadows.label(self._route, judged, reply)


async def _unknown() -> None:
    """What is not asked for."""
