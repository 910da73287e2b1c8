"""What is learned of cascades: whether answers of small models were right.

Labels come from shadow requests to the large model, and from people. They hold signals and
outcomes, never a word of what was said. `lamplighter calibrate` fits on them; nothing else does.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct

from policies.signals import Signals

Source = Literal["judge", "exact", "schema", "person"]
REMEMBERED = 10_000  # verdicts that people may still label


class Judged(Struct, frozen=True):
    """One answer of a small model that was judged."""

    policy: str
    small: str
    large: str
    kept: bool
    signals: Signals
    first: Signals | None  # of its first tokens, if it has more than those


class Label(Struct, array_like=True, frozen=True):
    """`time` is seconds since the epoch, `signals` and `first` JSON; None where nobody knows."""

    time: float
    policy: str
    small: str
    large: str
    source: Source
    kept: bool
    small_right: bool
    large_right: bool | None
    signals: str
    first: str | None


class Labels:
    """`keep` takes each new label to where it lasts.

    `told` hears, by policy, of each label's source, or `none` where one was asked for in vain.
    """

    def __init__(
        self,
        epoch: Callable[[], float],
        keep: Callable[[Label], None],
        told: Callable[[str, str], None],
    ) -> None:
        self._epoch = epoch
        self._keep = keep
        self._told = told
        self._judged: OrderedDict[str, Judged | None] = OrderedDict()

    def remember(self, request_id: str, judged: Judged) -> None:
        """Remember what was judged, so that its caller can say whether it was right.

        Callers may choose ids: of two requests with the same one nobody knows which is meant.
        """
        self._judged[request_id] = None if request_id in self._judged else judged
        if len(self._judged) > REMEMBERED:
            self._judged.popitem(last=False)

    def by_person(self, request_id: str, right: bool) -> Label | None:
        """A person says whether the small model was right; None for a request that is not known,
        or not from another one.

        Of an answer that was kept nobody knows what the large model would have said.
        """
        judged = self._judged.get(request_id)
        if judged is not None:
            del self._judged[request_id]
        return self.label(judged, "person", right, None) if judged is not None else None

    def label(
        self, judged: Judged, source: Source, small_right: bool, large_right: bool | None
    ) -> Label:
        label = Label(
            self._epoch(),
            judged.policy,
            judged.small,
            judged.large,
            source,
            judged.kept,
            small_right,
            large_right,
            _json(judged.signals),
            _json(judged.first) if judged.first is not None else None,
        )
        self._keep(label)
        self._told(judged.policy, source)
        return label

    def none(self, judged: Judged) -> None:
        """Who was to say whether the small model was right did not say it."""
        self._told(judged.policy, "none")


def _json(signals: Signals) -> str:
    return msgspec.json.encode(signals).decode()
