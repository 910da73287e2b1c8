"""vLLM's sleep mode for the fake model server: its routes, what sleep costs, and how it fails.

As in the real one (0.32): the routes stand at the root and need no key; /sleep is ignored while it
sleeps; tags wake one by one; a level 2 sleep loses the weights, so that what is woken without
reading them again answers nonsense. Stdlib only.
"""

import enum
import sys
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from tests.fakes.wire import End, Script, Step, answer, error

NONSENSE = "!!!!"
DEV_MODE = "VLLM_SERVER_DEV_MODE"
TAGS = frozenset({"weights", "kv_cache"})


class Fault(enum.StrEnum):
    REFUSES = "refuses"  # 400 to /sleep, as without --enable-sleep-mode
    BREAKS = "breaks"  # 500 to /sleep
    HANGS = "hangs"  # no answer to /sleep
    LIES = "lies"  # 200 to /sleep, and never sleeps
    DIES = "dies"  # crashes in /sleep
    WAKE_BREAKS = "wake-breaks"  # 500 to /wake_up
    WAKE_HANGS = "wake-hangs"
    WAKE_LIES = "wake-lies"  # 200 to /wake_up, and sleeps on
    WAKE_DIES = "wake-dies"
    DUMB = "dumb"  # awake, but every inference call is a 500


class Sleeper:
    """`route` answers what is about sleep, and inference calls that cannot be answered."""

    def __init__(
        self,
        *,
        takes_s: float = 0.0,
        wake_takes_s: float = 0.0,
        early: bool = False,
        fault: Fault | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.takes_s = takes_s
        self.wake_takes_s = wake_takes_s
        self.early = early  # /sleep and /wake_up answer before it is done
        self.fault = fault
        self.calls: list[str] = []  # in order, the looks at /is_sleeping apart
        self.asked_asleep = 0  # inference calls that came while it slept: never to happen
        self._clock = clock
        self._asleep: set[str] = set()
        self._true_from_s = 0.0  # what was last asked for
        self._was_asleep = False  # until then
        self._weights_lost = False
        self._woken = 0

    @property
    def asleep(self) -> bool:
        return bool(self._asleep) if self._clock() >= self._true_from_s else self._was_asleep

    @property
    def talks_nonsense(self) -> bool:
        return self._weights_lost

    def route(self, method: str, target: str, body: bytes) -> Script | None:
        parts = urlsplit(target)
        if method == "GET":
            return self._look() if parts.path == "/is_sleeping" else None
        routes = {
            "/sleep": self._sleep,
            "/wake_up": self._wake,
            "/collective_rpc": self._rpc,
            "/reset_prefix_cache": self._ok,
        }
        if parts.path in routes:
            said = f"{target} {body.decode()}".rstrip()
            self.calls.append(said)
            print(f"sleep mode: {said}", file=sys.stderr, flush=True)
            return routes[parts.path](parse_qs(parts.query), body)
        return self._inference()

    def _look(self) -> Script:
        return answer({"is_sleeping": self.asleep})

    def _inference(self) -> Script | None:
        if self.asleep:
            self.asked_asleep += 1
            print("sleep mode: ASKED WHILE ASLEEP", file=sys.stderr, flush=True)
            return error(503, "the model is sleeping")
        if self.fault is Fault.DUMB and self._woken:
            return error(500, "EngineCore encountered an issue")
        return None

    def _sleep(self, query: dict[str, list[str]], body: bytes) -> Script:
        match self.fault:
            case Fault.REFUSES:
                return error(400, "Sleep mode is not enabled")
            case Fault.BREAKS:
                return error(500, "CUDA out of memory")
            case Fault.HANGS:
                return [End.STALL]
            case Fault.DIES:
                return [End.CRASH]
        if self.fault is not Fault.LIES and not self._asleep:
            self._weights_lost = self._weights_lost or query.get("level") == ["2"]
            self._become(set(TAGS), self.takes_s)
        return self._done(self.takes_s)

    def _wake(self, query: dict[str, list[str]], body: bytes) -> Script:
        self._woken += 1
        match self.fault:
            case Fault.WAKE_BREAKS:
                return error(500, "CUDA out of memory")
            case Fault.WAKE_HANGS:
                return [End.STALL]
            case Fault.WAKE_DIES:
                return [End.CRASH]
            case Fault.WAKE_LIES:
                return self._done(self.wake_takes_s)
        self._become(self._asleep - set(query.get("tags", TAGS)), self.wake_takes_s)
        return self._done(self.wake_takes_s)

    def _rpc(self, query: dict[str, list[str]], body: bytes) -> Script:
        if b'"reload_weights"' in body and "weights" not in self._asleep:
            self._weights_lost = False
        return answer({"results": [None]})

    def _ok(self, query: dict[str, list[str]], body: bytes) -> Script:
        return answer({"success": True})

    def _become(self, asleep: set[str], in_s: float) -> None:
        self._was_asleep = self.asleep
        self._asleep, self._true_from_s = asleep, self._clock() + in_s

    def _done(self, takes_s: float) -> Script:
        pause: list[Step] = [] if self.early or not takes_s else [takes_s]
        return [*pause, *answer({"status": "ok"})]
