"""Which column of a trace means what: names as they are found in the wild, and their units."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


class TraceError(Exception):
    """A trace that cannot be read; the text names the file and, where there is one, the line."""


# Without case and punctuation; the first that a file has wins.
NAMES: Mapping[str, tuple[str, ...]] = {
    "time": (
        "time", "times", "timestamp", "ts", "arrivaltime", "arrivaltimes", "arrival", "arrivals",
        "arrivedat", "arrivedats", "arrived", "arrivaltimestamp", "requesttime", "requesttimes",
        "requesttimestamp", "submittime", "submittimes", "starttime", "starttimes", "start",
        "starttimestamp", "startedat", "createdat", "created", "datetime", "date", "receivedat",
        "receivedats", "t", "timems", "timestampms", "arrivaltimems", "arrivalms", "starttimems",
    ),
    "end": ("endtimestamp", "endtime", "endtimes", "end", "finishedat", "endedat"),
    "model": (
        "model", "modelname", "modelid", "servedmodel", "deployment", "deploymentname", "service",
        "servicename", "func", "function", "functionid", "hashfunction", "tenant", "tenantid",
        "endpoint", "basemodel",
    ),
    "client": ("client", "clientid"),
    "app": ("app", "appid", "hashapp"),
    "input": (
        "inputtokens", "inputtoken", "contexttokens", "inputlength", "inputlen", "prompttokens",
        "promptlength", "promptlen", "numinputtokens", "numprompttokens", "numprefilltokens",
        "requesttokens", "tokensin", "intokens", "input", "prefilltokens",
    ),
    "output": (
        "outputtokens", "outputtoken", "generatedtokens", "outputlength", "outputlen",
        "completiontokens", "responsetokens", "responselength", "numoutputtokens",
        "numdecodetokens", "generatedlength", "tokensout", "outtokens", "output", "decodetokens",
        "numgeneratedtokens", "generationtokens",
    ),
    "duration": (
        "duration", "durations", "durationms", "servicetime", "servicetimes", "runtime",
        "executiontime", "latencys", "executiontimes", "processingtime", "gentime", "gentimes",
        "generationtime", "exectimeseconds", "durationseconds", "exectime",
    ),
    "waited": ("waited", "waiteds", "waitedms"),
    "priority": ("priority", "prio"),
    "bytes": ("bytesin",),
    "deadline": ("deadline", "deadlines", "deadlinems", "timeout", "timeouts", "slo", "slos"),
    "window": ("windowstart", "windowstarts", "window", "starttimewindow"),
    "rate": ("rate", "raterps", "rps", "requestrate", "qps"),
    "cv": ("iatcv", "cv", "interarrivalcv"),
    "family": ("iatdist", "dist", "distribution", "iatdistribution", "pattern"),
    "shape": ("shape", "iatshape"),
    "scale": ("scaleorrate", "scale", "iatscale"),
}  # fmt: skip
_MS = re.compile(r"(ms|millis|milliseconds)$")


@dataclass(frozen=True)
class Columns:
    """What a file's columns were taken for. `jsonl` counts its times in milliseconds."""

    header: tuple[str, ...]
    found: Mapping[str, int]
    ms: frozenset[str] = frozenset()

    def sentence(self) -> str:
        parts = []
        for meaning, place in self.found.items():
            unit = " in ms" if meaning in self.ms else ""
            parts.append(f"{meaning} = {self.header[place]}{unit}")
        unused = [name for n, name in enumerate(self.header) if n not in self.found.values()]
        return ", ".join(parts) + (f"; not used: {', '.join(unused)}" if unused else "")


def columns_of(header: Sequence[str]) -> Columns:
    """What each name of a header means."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    found: dict[str, int] = {}
    for meaning, names in NAMES.items():
        for name in names:
            if name in plain and plain.index(name) not in found.values():
                found[meaning] = plain.index(name)
                break
    ms = frozenset(meaning for meaning, place in found.items() if _MS.search(plain[place]))
    if "hashids" in plain:  # Mooncake's traces, whose timestamp is in milliseconds
        ms |= {"time"}
    return Columns(tuple(header), found, ms)


def clock_of(text: str) -> Callable[[str], float]:
    """How to read the times of a file, by its first one: seconds, an epoch, or ISO."""
    try:
        number = float(text)
    except ValueError:
        iso_s(text)  # ValueError when it is neither
        return iso_s
    for digits, unit in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3)):
        if abs(number) >= digits:
            return lambda t: float(t) * unit
    return float


def iso_s(text: str) -> float:
    """Seconds since the epoch; without a zone it is UTC. ValueError when it is no time."""
    moment = datetime.fromisoformat(text.strip().replace(" UTC", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def number(text: str, what: str) -> float:
    """A finite number, at least 0; ValueError names the column."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{what} {text!r} is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{what} {text} is not a number of at least 0")
    return value
