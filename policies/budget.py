"""What a day's budget allows: all, only what is needed, or nothing more."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Stance = Literal["normal", "saving", "refusing"]
SAVING_FROM = 0.8  # of the budget
ALL_MODELS = "the gateway"  # whose budget it is that all models share

_ORDER: tuple[Stance, ...] = ("normal", "saving", "refusing")


class Purse(Struct, frozen=True):
    """One budget: whose it is, what it allows in a day and what was spent today, in USD."""

    whose: str
    usd_per_day: float
    spent_usd: float


class Allowance(Struct, frozen=True):
    stance: Stance
    reason: str = ""


NORMAL = Allowance("normal")


def allowance(purses: Iterable[Purse]) -> Allowance:
    """The strictest of the budgets that apply to a request."""
    strictest = NORMAL
    for purse in purses:
        stance = _stance(purse)
        if _ORDER.index(stance) > _ORDER.index(strictest.stance):
            spent, limit = f"{purse.spent_usd:.4g}", f"{purse.usd_per_day:.4g}"
            reason = f"{purse.whose} has spent {spent} of {limit} USD today"
            strictest = Allowance(stance, reason)
    return strictest


def _stance(purse: Purse) -> Stance:
    if purse.spent_usd >= purse.usd_per_day:
        return "refusing"
    return "saving" if purse.spent_usd >= SAVING_FROM * purse.usd_per_day else "normal"
