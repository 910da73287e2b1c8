"""How an answer comes to its result, read off its text alone: what speaks for and against it.

Made for answers that reckon; of a text without numbers little is known. No logprobs are needed,
so it also serves outside APIs that give none.
"""

import re
from collections.abc import Sequence

from msgspec import Struct

from policies.arithmetic import NUMBER, numbers, sums

# What stands before a final answer; as patterns.
SIGN = r"\\boxed\{|####"
ANSWER_IS = r"\banswer(?:\s{1,3}is\b|\s{0,3}:)"
_SEARCHED = 8_000  # characters at the end of an answer, and of a prompt; 50 ms at worst
_LINE = 500


class Working(Struct, frozen=True, forbid_unknown_fields=True):
    """Each grows with what speaks for the answer; None: it does not apply.

    `sums_hold`: no equation in it is false. `concluded`: the result is what the last equation
    gave. `plain_result`: after "answer is" or `####` stands a number and no more. `whole_result`:
    it is no broken number, or the prompt has broken ones. `numbers_used`: share of the prompt's
    numbers that it takes up. `steps`: equations for each number of the prompt, at most 2.
    `finished`: it does not break off. `no_doubts`: it does not correct itself, assume or give up.
    """

    sums_hold: bool | None = None
    concluded: bool | None = None
    plain_result: bool | None = None
    whole_result: bool | None = None
    numbers_used: float | None = None
    steps: float | None = None
    finished: bool = True
    no_doubts: bool = True


def working(prompt: str, answer: str) -> Working:
    prompt, answer = prompt[-_SEARCHED:], answer[-_SEARCHED:].rstrip()
    given = numbers(prompt)
    found = sums(answer)
    marked = max(_MARK.finditer(answer), key=re.Match.start, default=None)
    result = _result(answer, marked)
    return Working(
        sums_hold=found.false == 0 if found.stated else None,
        concluded=_concluded(result, found.results),
        plain_result=None if not given else _plain(marked),
        whole_result=None if result is None else _whole(result, given),
        numbers_used=_used(given, numbers(answer)),
        steps=min(found.stated / len(given), 2.0) if given else None,
        finished=_END.search(answer.rpartition("\n")[2][-_LINE:]) is not None,
        no_doubts=_DOUBT.search(answer) is None,
    )


_MARK = re.compile(
    rf"(?:{SIGN}|{ANSWER_IS}[:*]{{0,3}})(?P<result>[^\n]{{0,200}})",
    re.IGNORECASE,
)
_NUMBER = re.compile(NUMBER)
_ALONE = re.compile(rf"\s*[*$€£(]*\s*-?(?:{NUMBER})[%.)}}*]*\s*")
_END = re.compile(rf"[.!?。！？…)\]}}`\"'”*]$|(?:{SIGN}|[Aa]nswer)[^\n]*$")
_DOUBT = re.compile(
    r"\b(?:however|assum\w+|closest|not possible|impossible|cannot|can(?:'t|’t)|unclear|seems"
    r"|perhaps|maybe|probably|actually|wait|mistake\w*|incorrect|apolog\w+|approximately"
    r"|negative (?:number|value|amount|result)|let(?:'s|’s) (?:try|re-?\w+)"
    r"|not (?:given|provided|specified|enough|sure|certain))\b",
    re.IGNORECASE,
)


def _result(answer: str, marked: re.Match[str] | None) -> float | None:
    """The number after the mark, else the last one."""
    said = _NUMBER.search(marked["result"]) if marked else None
    if said is not None:
        return float(said.group().replace(",", ""))
    found = numbers(answer)
    return found[-1] if found else None


def _concluded(result: float | None, results: Sequence[float]) -> bool | None:
    if result is None or not results:
        return None
    rounded = 0.0 if result.is_integer() else 0.01 * max(1.0, abs(result))
    return abs(result - results[-1]) <= rounded


def _plain(marked: re.Match[str] | None) -> bool:
    return marked is not None and _ALONE.fullmatch(marked["result"]) is not None


def _whole(result: float, given: Sequence[float]) -> bool:
    return result.is_integer() or any(not number.is_integer() for number in given)


def _used(given: Sequence[float], taken: Sequence[float]) -> float | None:
    return len(set(given) & set(taken)) / len(set(given)) if given else None
