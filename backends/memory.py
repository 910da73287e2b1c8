"""The seam between a cold model and the device whose memory it needs: what each asks of the other.

A model without a device has `Unshared` memory. Owns no state.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from backends.holding import Rung
from backends.instance import ColdSettings, Instance


class Tenant(Protocol):
    """A model as its device sees it. Events reach it by `post`, all else is only read."""

    @property
    def model(self) -> str: ...
    @property
    def settings(self) -> ColdSettings: ...
    @property
    def instances(self) -> Mapping[str, Instance]: ...
    def post(self, event: Callable[..., None], *args: object) -> None: ...

    def wants_room(self) -> bool:
        """Whether it would launch or wake an instance now if there were memory for it."""
        ...

    def oldest_s(self) -> float | None:
        """When the one came who waits for it longest."""
        ...

    def is_owed(self) -> bool:
        """Whether somebody waits for it, or it is to be held ready; not so by an early start."""
        ...

    def held_until_s(self, instance: Instance) -> float:
        """Until when an instance must stay though nobody uses it: past, a time, or `inf`."""
        ...

    def start_cost_s(self) -> float: ...
    def can_sleep(self) -> bool: ...

    # events
    def room_made(self) -> None:
        """The memory that it asked for is there."""
        ...

    def no_room(self, why: str, until_s: float) -> None:
        """What others hold does not leave it memory enough before a time."""
        ...

    def make_room(self, instance_id: str, to: Rung, must: bool) -> None:
        """Go down if idle; or, if it `must`, take nothing new and go down when it has ended."""
        ...

    def keep(self, instance_id: str) -> None:
        """Nobody needs the room any more."""
        ...


class Memory(Protocol):
    """What a model's lifecycle asks of its device."""

    @property
    def clock(self) -> float: ...
    def join(self, tenant: Tenant) -> None: ...
    def leave(self, tenant: Tenant) -> None: ...

    def take(self, tenant: Tenant) -> bool:
        """Memory for one more instance; when there is none its event `room_made` comes later."""
        ...

    def hand_back(self, tenant: Tenant) -> None:
        """What was granted and not taken is not wanted any more."""
        ...

    def has_room(self, tenant: Tenant) -> bool:
        """Whether one more instance fits beside all others, without asking for it."""
        ...

    def may_sleep(self, tenant: Tenant) -> bool:
        """Whether host memory is left for one more of it at level 1."""
        ...

    def goes(self, instance_id: str, to: Rung) -> None:
        """An instance makes room as it was asked."""
        ...

    def stays(self, instance_id: str) -> None:
        """It is in use again, or nobody needs its room any more."""
        ...

    def shortage(self, tenant: Tenant) -> tuple[str, float] | None:
        """What it waits for, in words, and the seconds until its turn; None: for nothing."""
        ...

    def poke(self) -> None:
        """Something has changed."""
        ...

    def look_again(self) -> None:
        """Something has changed that may concern a device that nobody waits for."""
        ...


class Unshared:
    """Satisfies `Memory` for a model that names no device: there is always enough."""

    clock = 0.0

    def join(self, tenant: Tenant) -> None: ...
    def leave(self, tenant: Tenant) -> None: ...

    def take(self, tenant: Tenant) -> bool:
        return True

    def hand_back(self, tenant: Tenant) -> None: ...

    def has_room(self, tenant: Tenant) -> bool:
        return True

    def may_sleep(self, tenant: Tenant) -> bool:
        return True

    def goes(self, instance_id: str, to: Rung) -> None: ...
    def stays(self, instance_id: str) -> None: ...

    def shortage(self, tenant: Tenant) -> tuple[str, float] | None:
        return None

    def poke(self) -> None: ...
    def look_again(self) -> None: ...
