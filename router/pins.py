"""Which endpoint made which stored response, so that later calls by its id go there."""

import re
from collections import OrderedDict
from dataclasses import dataclass

PINS_KEPT = 100_000  # about 30 MB; the oldest unused goes first

_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp[A-Za-z0-9_-]{1,200})"')


@dataclass(frozen=True, slots=True)
class Pin:
    """`model` is the configured name, `endpoint` the id of the endpoint or instance."""

    model: str
    endpoint: str


class Pins:
    """A bounded map from response ids to endpoints."""

    def __init__(self, limit: int = PINS_KEPT) -> None:
        self._limit = limit
        self._pins: OrderedDict[str, Pin] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pins)

    def remember(self, answer: bytes, pin: Pin) -> bool:
        """Pin the response whose id stands in the first part of an answer; False without one."""
        found = _RESPONSE_ID.search(answer)
        if found is None:
            return False
        self._pins[found.group(1).decode()] = pin
        if len(self._pins) > self._limit:
            self._pins.popitem(last=False)
        return True

    def find(self, response_id: str) -> Pin | None:
        pin = self._pins.get(response_id)
        if pin is not None:
            self._pins.move_to_end(response_id)
        return pin
