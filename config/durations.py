"""Durations ("1h30m", "never") as seconds and sizes ("32MiB") as bytes, for pydantic fields."""

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from config.problems import shown

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {
    "": 1, "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_NUMBER = r"[0-9]{1,16}(?:\.[0-9]{1,9})?"
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
DURATION_PATTERN = rf"^({_NUMBER}(ms|s|m|h|d))+$"
SIZE_PATTERN = rf"^{_NUMBER} ?([kKMGT]B|[KMGT]iB|B)?$"
# A timer this long is a typing mistake, and `never` says what was meant.
LONGEST_S = 366 * 86400.0
LARGEST = 2**50


def seconds(value: object) -> float:
    """Seconds, math.inf for "never"; a bare number is seconds. ValueError says what to write."""
    if value == "never":
        return math.inf
    total = _seconds_of(value)
    if total is None:
        raise ValueError(
            f"{shown(value)} is not a duration; write a number and a unit, such as"
            " 500ms, 10s, 5m, 2h or 1h30m"
        )
    if not 0 <= total <= LONGEST_S:
        raise ValueError("a duration must be between 0s and 366d; write never for no limit")
    return total


def _seconds_of(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A huge int does not fit a float; any number past the limit will do.
        return LONGEST_S + 1 if value > LONGEST_S else float(value) if value == value else None
    text = value.strip() if isinstance(value, str) else ""
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not re.match(DURATION_PATTERN, text) or text.endswith("\n"):
        return None
    parts = [(float(number), _SECONDS[unit]) for number, unit in _PART.findall(text)]
    units = [unit for _, unit in parts]
    if units != sorted(set(units), reverse=True):  # 5m1h and 5m5m are typing mistakes
        return None
    return sum(number * unit for number, unit in parts)


def spelled_duration(value: float) -> str:
    """The shortest way to write a number of seconds: 90.0 -> "1m30s"."""
    if math.isinf(value):
        return "never"
    left, out = round(value * 1000), ""
    for unit, size in _SECONDS.items():
        count, left = divmod(left, round(size * 1000))
        out += f"{count}{unit}" if count else ""
    return out or "0s"


def size_in_bytes(value: object) -> int:
    """Bytes; a bare number is bytes. ValueError says what to write."""
    if isinstance(value, int) and not isinstance(value, bool):
        total = float(min(value, LARGEST + 1))
    else:
        text = value.strip() if isinstance(value, str) else ""
        found = re.fullmatch(rf"({_NUMBER}) ?([A-Za-z]*)", text)
        if not found or found[2] not in _BYTES:
            raise ValueError(
                f"{shown(value)} is not a size; write a number and a unit, such as 64KiB, 32MiB"
                " or 1GB, or plain bytes"
            )
        total = float(found[1]) * _BYTES[found[2]]
    if not 1 <= total <= LARGEST or total != int(total):
        raise ValueError("a size must be a whole number of bytes between 1 and 1024TiB")
    return int(total)


def spelled_size(value: int) -> str:
    """The largest binary unit that keeps it whole: 33554432 -> "32MiB"."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % _BYTES[unit] == 0:
            return f"{value // _BYTES[unit]}{unit}"
    return str(value)


def _finite(value: object) -> float:
    if (number := seconds(value)) == math.inf:
        raise ValueError("never is not possible here; write a duration such as 30s or 5m")
    return number


def _above_zero(number: float) -> float:
    if number <= 0:
        raise ValueError("must be longer than 0s")
    return number


def _schema(*, never: bool) -> WithJsonSchema:
    text: dict[str, Any] = {"type": "string", "pattern": DURATION_PATTERN}
    options = [text, {"type": "number", "minimum": 0, "maximum": LONGEST_S}]
    return WithJsonSchema({"anyOf": [*options, {"const": "never"}] if never else options})


_spell = PlainSerializer(spelled_duration, return_type=str, when_used="json")

Duration = Annotated[float, BeforeValidator(_finite), _spell, _schema(never=False)]
"""Seconds, 0 or more, finite."""
Timeout = Annotated[
    float, BeforeValidator(lambda v: _above_zero(_finite(v))), _spell, _schema(never=False)
]
"""Seconds, more than 0, finite."""
TimeoutOrNever = Annotated[
    float, BeforeValidator(lambda v: _above_zero(seconds(v))), _spell, _schema(never=True)
]
"""Seconds, more than 0, math.inf for never."""
Size = Annotated[
    int,
    BeforeValidator(size_in_bytes),
    PlainSerializer(spelled_size, return_type=str, when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": SIZE_PATTERN}, {"type": "integer", "minimum": 1}]}
    ),
]
"""Bytes, 1 or more."""


def at_most(text: str) -> AfterValidator:
    """A limit on a duration, said as it is written here."""
    most = seconds(text)

    def check(value: float) -> float:
        if value > most:
            raise ValueError(f"must be at most {text}")
        return value

    return AfterValidator(check)


def at_least(text: str) -> AfterValidator:
    least = seconds(text)

    def check(value: float) -> float:
        if value < least:
            raise ValueError(f"must be at least {text}")
        return value

    return AfterValidator(check)
