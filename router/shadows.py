"""What goes on behind a caller's back: mirrored requests, and answers asked for to label others.

Bounded: what finds no room is left out, and counted.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from backends.fleet import Snapshot
from backends.tasks import TaskSet
from policies import agreement
from policies.reply import Reply
from router.answer import Answer
from router.asking import Asking, Begin, once_more
from router.journey import Leg
from router.labels import Judged, Labels
from router.places import answers_now
from router.record import Record
from router.request import Request
from router.route import Route

log = logging.getLogger("lamplighter.shadows")

AT_ONCE = 64
HELD_LIMIT = 64 * 2**20  # bytes of bodies that all of them hold; memory takes twice that
_MORE_LIKELY = math.log(0.5)
_SHOWN = 8_000  # characters of each answer that the judge reads

_QUESTION = (
    "Two answers to the same request follow. Does the second one come to the same result as the"
    " first, so that a person would be as well served by it? Say only Yes or No.\n\n"
    "Request:\n{asked}\n\nFirst answer:\n{large}\n\nSecond answer:\n{small}\n"
)


class Shadows:
    """Of one gateway. `dropped` hears, by policy, of each that found no room."""

    def __init__(
        self,
        begin: Begin,
        clock: Callable[[], float],
        ended: Callable[[Record], None],
        labels: Labels,
        dropped: Callable[[str], None],
    ) -> None:
        self.asking = Asking(begin, clock, ended)
        self._labels = labels
        self._dropped = dropped
        self._tasks = TaskSet()
        self._held = 0  # bytes of bodies

    async def close(self) -> None:
        await self._tasks.close()

    # --- mirrored requests ----------------------------------------------------------------------

    def mirror(self, route: Route) -> None:
        """Send a share of the requests to another model too; nobody gets its answers.

        Not to the one that answers anyway, and never through a start.
        """
        mirror, request = route.mirror, route.request
        if mirror is None or mirror.to == route.model or not chosen(mirror.share):
            return
        if not self._take_room(route, mirror.to):
            return
        copy = msgspec.structs.replace(request, id=f"{request.id}-mirror")
        settings = route.snapshot.config.settings(mirror.to)
        leg = Leg(mirror.to, settings, "low")
        work = partial(self._mirror, route.snapshot, copy, leg, route.policy)
        self._tasks.start(self._holding(request.size, work), "mirror")

    async def _mirror(self, snapshot: Snapshot, request: Request, leg: Leg, policy: str) -> None:
        record = self.asking.record(request)
        record.stream = request.stream
        record.reasons.append(f"mirror of policy '{policy}'")
        record.mirror_of = policy
        await self.asking.ask(snapshot, leg, request, record, _read_away)

    # --- labels ---------------------------------------------------------------------------------

    def labels(self, route: Route) -> bool:
        """Whether the request is one of the share from which is learned."""
        accept = route.use.accept
        return accept is not None and chosen(accept.shadow)

    def label(self, route: Route, judged: Judged, reply: Reply) -> None:
        """Learn whether the small model's answer was right, if the large one can be asked now."""
        if not self._take_room(route, judged.large):
            return
        # The caller's own journey forgets the body of its request.
        request = msgspec.structs.replace(route.request)
        work = partial(self._label, route, request, judged, reply)
        self._tasks.start(self._holding(request.size, work), "label")

    async def _label(self, route: Route, request: Request, judged: Judged, reply: Reply) -> None:
        leg = msgspec.structs.replace(route.leg(judged.large), priority="low")
        again = once_more(request, {})
        large = await self.asking.reply(route.snapshot, leg, again) if again is not None else None
        if large is None:
            self._labels.none(judged)
            return
        exact = route.use.accept is not None and route.use.accept.compare == "exact"
        same = agreement.same(reply, large)
        if exact or same:
            # What differs in words only counts as wrong here: the bound errs to the safe side.
            self._labels.label(judged, "exact", same, True)
            return
        question = _QUESTION.format(
            asked=route.facts.text[-_SHOWN:], large=large.text[:_SHOWN], small=reply.text[:_SHOWN]
        )
        log_yes = await self.asking.yes(route.snapshot, leg, request, question)
        if log_yes is None:
            self._labels.none(judged)
        else:
            self._labels.label(judged, "judge", log_yes > _MORE_LIKELY, True)

    def _take_room(self, route: Route, model: str) -> bool:
        """Take room for one more, if it fits and the model can answer it without a start."""
        held = self._held + route.request.size
        fits = len(self._tasks) < AT_ONCE and held <= HELD_LIMIT
        if fits and answers_now(route.snapshot.backends[model]):
            self._held = held  # until the work that it is for has ended
            return True
        self._dropped(route.policy)
        return False

    async def _holding(self, size: int, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, and then give back the room that so many bytes have."""
        try:
            await work()
        finally:
            self._held -= size


async def _read_away(answer: Answer) -> None:
    """Let it come to its end."""
    if not answer.complete:
        await answer.relay(lambda piece: None)


def chosen(share: float) -> bool:
    """Whether a request is one of a share of all. Not told from its id, which callers choose: they
    would choose what is paid for twice, and from which requests is learned."""
    return random.random() < share
