"""What is known of answers whose rightness is known: the input of a fit, read from a file.

One JSON object a line; docs/cascade.md has the format.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from policies.signals import Signals, first_signals, signals
from router.reply import ReplyReader


class Labelled(Struct, frozen=True):
    """One request. `first` are the signals of its first tokens; None: it has no more than those,
    or no logprobs. `large_right` is None where the large model was not asked."""

    signals: Signals
    small_right: bool
    large_right: bool | None = None
    first: Signals | None = None
    small_usd: float | None = None
    large_usd: float | None = None
    policy: str | None = None
    prompt: str | None = None


class _Small(Struct, forbid_unknown_fields=True):
    right: bool
    signals: Signals | None = None
    first: Signals | None = None
    response: msgspec.Raw = msgspec.Raw()  # empty: none; msgspec reads a union of it as null alone
    usd: float | None = None


class _Large(Struct, forbid_unknown_fields=True):
    right: bool
    usd: float | None = None


class _Line(Struct, forbid_unknown_fields=True):
    small: _Small
    large: _Large | None = None
    policy: str | None = None
    prompt: str | None = None


_LINE = msgspec.json.Decoder(_Line)


def read(lines: Iterable[bytes], policy: str | None = None) -> list[Labelled]:
    """Those of one policy, and those that name none. ValueError names the line that is wrong."""
    found: list[Labelled] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            labelled = _labelled(_LINE.decode(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from error
        if policy is None or labelled.policy in (None, policy):
            found.append(labelled)
    return found


def _labelled(line: _Line) -> Labelled:
    small, response = line.small, bytes(line.small.response)
    if (small.signals is None) == (response in (b"", b"null")):
        raise ValueError("small needs either signals or the response that they are read from")
    found, first = small.signals, small.first
    if small.signals is None:
        found, first = _read_off(response, line.prompt)
    assert found is not None
    large = line.large
    return Labelled(
        signals=found,
        small_right=small.right,
        large_right=None if large is None else large.right,
        first=first,
        small_usd=small.usd,
        large_usd=None if large is None else large.usd,
        policy=line.policy,
        prompt=line.prompt,
    )


def _read_off(response: bytes, prompt: str | None) -> tuple[Signals, Signals | None]:
    reader = ReplyReader()
    reader.whole(response)
    reply = reader.reply()
    if not reader.readable or not (reply.text or reply.tool_calls):
        raise ValueError("small.response is no completion with an answer in it")
    return signals(reply, prompt=prompt), first_signals(reply)
