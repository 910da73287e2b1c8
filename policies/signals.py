"""How sure a model was of an answer: numbers read off one reply.

Nothing here judges; `calibration` turns these numbers into a probability. Phrases are looked for
in English; elsewhere they are simply not found.
"""

import json
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from policies.reply import Reply, Token
from policies.working import ANSWER_IS, SIGN, Working, working

LOW_QUANTILE = 0.1
WHOLE_SPAN_TOKENS = 16  # an answer this short is a final answer from end to end
FIRST_TOKENS = 16  # of a stream, before it may be decided
_SEARCHED = 200_000  # characters of an answer that are looked at

Check = Callable[[object], bool]


class Expected(Struct, frozen=True):
    """What the request asked the answer to be; checks are of JSON Schemas and never raise."""

    json: bool = False
    schema: Check | None = None
    tools: Mapping[str, Check] | None = None


class Signals(Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers of one answer; None: not known. Logprobs, margins and entropies are in nats.

    `low_logprob` is the 10 % quantile; `span_...` are of the final answer alone. `self_check` is
    the model's log P(yes) when it was asked whether it is right, `agreement` the share of further
    samples that say the same. `neighbours` is P(small right) among prompts
    like this one.
    """

    mean_logprob: float | None = None
    min_logprob: float | None = None
    low_logprob: float | None = None
    mean_margin: float | None = None
    min_margin: float | None = None
    mean_entropy: float | None = None
    span_mean_logprob: float | None = None
    span_min_logprob: float | None = None
    span_mean_margin: float | None = None
    span_min_margin: float | None = None
    span_mean_entropy: float | None = None
    tokens: int | None = None
    finish_reason: str | None = None
    refusal: bool = False
    hedge: bool = False
    valid: bool | None = None
    self_check: float | None = None
    agreement: float | None = None
    working: Working | None = None
    prompt_characters: int | None = None
    neighbours: float | None = None


NOTHING_ASKED = Expected()


def signals(
    reply: Reply,
    asked: Expected = NOTHING_ASKED,
    self_check: float | None = None,
    agreement: float | None = None,
    prompt: str | None = None,
    neighbours: float | None = None,
) -> Signals:
    """`prompt` is the last user text; without it, as of a beginning, no working is looked at."""
    whole = _sureness(reply.tokens)
    span = _sureness(final_answer(reply))
    text = reply.text[:_SEARCHED]
    return Signals(
        **whole,
        **{f"span_{name}": value for name, value in span.items() if name != "low_logprob"},
        tokens=len(reply.tokens) or None,
        finish_reason=reply.finish_reason,
        refusal=_REFUSAL.search(text[:300]) is not None,
        hedge=_HEDGE.search(text) is not None,
        valid=_valid(reply, asked),
        self_check=self_check,
        agreement=agreement,
        working=_working(prompt, reply, asked),
        prompt_characters=None if prompt is None else len(prompt),
        neighbours=neighbours,
    )


def _working(prompt: str | None, reply: Reply, asked: Expected) -> Working | None:
    if prompt is None or reply.tool_calls or asked.json or asked.schema is not None:
        return None
    return working(prompt, reply.text)


def first_tokens(reply: Reply, count: int) -> Reply:
    """The beginning of an answer, as a stream has it after `count` tokens."""
    tokens = reply.tokens[:count]
    return Reply(text="".join(token.text for token in tokens), tokens=tokens)


def first_signals(reply: Reply) -> Signals | None:
    """Of its first tokens; None when it has no more than those."""
    if len(reply.tokens) <= FIRST_TOKENS:
        return None
    return signals(first_tokens(reply, FIRST_TOKENS))


def _sureness(tokens: Sequence[Token]) -> dict[str, float | None]:
    """Impossible tokens (-inf) count as very unlikely ones: a mean must stay a number. None is
    likelier than certain, whatever a server says."""
    logprobs = sorted(min(max(token.logprob, -100.0), 0.0) for token in tokens)
    tops = [token.top for token in tokens if len(token.top) > 1]
    margins = [max(min(top[0] - top[1], 100.0), 0.0) for top in tops]
    entropies = [_entropy(top) for top in tops]
    return {
        "mean_logprob": _mean(logprobs),
        "min_logprob": logprobs[0] if logprobs else None,
        "low_logprob": logprobs[int(LOW_QUANTILE * len(logprobs))] if logprobs else None,
        "mean_margin": _mean(margins),
        "min_margin": min(margins, default=None),
        "mean_entropy": _mean(entropies),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _entropy(top: Sequence[float]) -> float:
    """What is not among the likeliest tokens counts as one more."""
    shares = [math.exp(min(logprob, 0.0)) for logprob in top]
    rest = max(1.0 - math.fsum(shares), 0.0)
    return -math.fsum(share * math.log(share) for share in (*shares, rest) if share > 0)


# --- the final answer ---------------------------------------------------------------------------

# What follows a mark is only looked at: the last of several marks may stand within it.
_MARKED = re.compile(
    r"\\boxed\{(?=([^{}\n]{1,500}))|####[ \t]*(?=([^\n]{1,500}))"
    rf"|{ANSWER_IS}[:*\s]{{0,5}}"
    r"(?=([^\n]{1,500}?)(?:[.!?](?:\s|\Z)|\n|\Z))",
    re.IGNORECASE,
)
_MARK = re.compile(f"{SIGN}|{ANSWER_IS}", re.IGNORECASE)
_MARKS = 50  # the last ones: looking behind thousands of them would take a second
_JSON_VALUE = re.compile(
    r'[:\[,]\s*("(?:[^"\\]|\\.)*"(?!\s*:)|-?\d[-+.\deE]*|true\b|false\b|null\b)'
)


def final_answer(reply: Reply) -> tuple[Token, ...]:
    """Its tokens: what stands in `\\boxed`, after `####` or "answer is", or JSON's values."""
    tokens = reply.tokens
    if len(tokens) <= WHOLE_SPAN_TOKENS:
        return tokens
    text = "".join(token.text for token in tokens)[:_SEARCHED]
    if reply.tool_calls or text.lstrip()[:1] in ("{", "["):
        return _within(tokens, [found.span(1) for found in _JSON_VALUE.finditer(text)])
    marked = _marked(text)
    return _within(tokens, [marked.span(marked.lastindex or 0)] if marked else [])


def final_text(text: str) -> str:
    """The same for an answer without logprobs; all of it where no final answer is marked."""
    marked = _marked(text[:_SEARCHED])
    return text if marked is None else marked.group(marked.lastindex or 0)


def _marked(text: str) -> re.Match[str] | None:
    """The last mark with something behind it."""
    places = deque((found.start() for found in _MARK.finditer(text)), _MARKS)
    return next(filter(None, (_MARKED.match(text, place) for place in reversed(places))), None)


def _within(tokens: Sequence[Token], spans: Sequence[tuple[int, int]]) -> tuple[Token, ...]:
    """The tokens that have a character in one of the spans, which are in ascending order."""
    found: list[Token] = []
    at = current = 0
    for token in tokens:
        end = at + len(token.text)
        while current < len(spans) and spans[current][1] <= at:
            current += 1
        if current < len(spans) and spans[current][0] < end:
            found.append(token)
        at = end
    return tuple(found)


# --- phrases ------------------------------------------------------------------------------------

_REFUSAL = re.compile(
    r"\bI(?:'m| am|’m) (?:sorry|unable|not able|afraid)\b"
    r"|\bI (?:can(?:'t|not|’t)|won(?:'t|’t)) (?:help|assist|answer|provide|do)\b"
    r"|\bas an AI\b|\bcannot (?:assist|comply|fulfil)",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\bI(?:'m| am|’m) not (?:\w+ )?(?:sure|certain)\b|\bI (?:do not|don(?:'t|’t)) know\b"
    r"|\b(?:hard|difficult|impossible) to (?:say|tell|know)\b|\bI (?:think|believe|guess)\b"
    r"|\b(?:probably|perhaps|possibly|unclear|uncertain)\b|\b(?:might|may|could) be\b"
    r"|\bnot enough information\b|\bcannot be determined\b",
    re.IGNORECASE,
)


# --- validity -----------------------------------------------------------------------------------


def _valid(reply: Reply, asked: Expected) -> bool | None:
    """Whether tool calls and JSON are what was asked for; None: nothing of the kind was asked."""
    if reply.tool_calls:
        tools = asked.tools or {}
        return all(_is_call(name, arguments, tools) for name, arguments in reply.tool_calls)
    if not asked.json and asked.schema is None:
        return None
    try:
        value = json.loads(reply.text)
    except (ValueError, RecursionError):
        return False
    return asked.schema is None or asked.schema(value)


def _is_call(name: str, arguments: str, tools: Mapping[str, Check]) -> bool:
    check = tools.get(name)
    if check is None:
        return False
    try:
        return check(json.loads(arguments or "{}"))
    except (ValueError, RecursionError):
        return False
