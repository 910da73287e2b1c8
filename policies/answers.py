"""Answers that may have to be waited for, and what several of them come to.

Several together are told as soon as one of them tells, whatever the others wait for: so a fact is
fetched only where nothing cheaper decides.
"""

from collections.abc import Callable, Sequence

from policies.facts import Facts, Pending

Answer = bool | Pending
Holds = Callable[[Facts], Answer]


def all_hold(checks: Sequence[Holds]) -> Holds:
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:  # most rules have no more, and a loop takes longer
        return _both(*checks)

    def holds(facts: Facts) -> Answer:
        waits: Answer = True
        for check in checks:
            answer = check(facts)
            if answer is False:
                return False
            if answer is not True and waits is True:
                waits = answer
        return waits

    return holds


def _both(first: Holds, second: Holds) -> Holds:
    def holds(facts: Facts) -> Answer:
        one = first(facts)
        if one is False:
            return False
        other = second(facts)
        return other if one is True or other is False else one

    return holds


def one_holds(checks: Sequence[Holds]) -> Holds:
    def holds(facts: Facts) -> Answer:
        waits: Answer = False
        for check in checks:
            answer = check(facts)
            if answer is True:
                return True
            if answer is not False and waits is False:
                waits = answer
        return waits

    return holds
