"""What only two keys together can tell of placement, devices, sleep levels and budgets."""

from collections.abc import Iterator
from dataclasses import dataclass

from config.durations import seconds, size_in_bytes, spelled_duration, spelled_size
from config.problems import did_you_mean, dotted, shown
from config.scalars import FilledText, core
from config.settings import PlacementSettings
from config.yaml_lines import Document, Path

_PIN_NEEDS = {"always_on": ("hot", "cold"), "on_demand": ("cold",), "api": ("api",)}


def check(document: Document) -> None:
    """Add to the document's problems."""
    top = Spot(document, (), document.value)
    models = list(top.at("models").entries())
    _placement(top.at("defaults", "placement"), None)
    for model in models:
        _placement(model.at("placement"), top.at("defaults", "placement"))
        _pin(model, top.at("defaults", "placement", "pin"))
        _ascending(model.at("cold", "start_time"))
        _sleep(model.at("cold", "sleep"))
        _device(model.at("cold"), top.at("devices"))
        _budget(model, [model])
    _budget(top, models)


@dataclass(frozen=True, slots=True)
class Spot:
    """A value as it stands in the file, with its path. What has the wrong type is None here:
    the schema reports it."""

    document: Document
    path: Path
    value: object

    def at(self, *keys: str) -> "Spot":
        here = self
        for key in keys:
            inner = here.value.get(key) if isinstance(here.value, dict) else None
            here = Spot(self.document, (*here.path, key), inner)
        return here

    def entries(self) -> Iterator["Spot"]:
        """The values of a map or of a list."""
        if isinstance(self.value, dict):
            for key in self.value:
                yield self.at(key)
        elif isinstance(self.value, list):
            for n, item in enumerate(self.value):
                yield Spot(self.document, (*self.path, n), item)

    @property
    def is_there(self) -> bool:
        """Also of a value that cannot be read."""
        return self.value is not None or self.path in self.document.broken

    @property
    def has_broken(self) -> bool:
        """Whether it, or something in it, could not be read."""
        depth = len(self.path)
        return any(path[:depth] == self.path for path in self.document.broken)

    @property
    def text(self) -> str | None:
        return self.value if isinstance(self.value, str) else None

    @property
    def number(self) -> float | None:
        value = core(self.value) if isinstance(self.value, FilledText) else self.value
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def size(self) -> int | None:
        try:
            return size_in_bytes(self.value)
        except ValueError:
            return None

    @property
    def duration_s(self) -> float | None:
        try:
            return seconds(self.value)
        except ValueError:
            return None

    def report(self, sentence: str) -> None:
        self.document.report(self.document.values[self.path], f"{dotted(self.path)}: {sentence}")


def _placement(here: Spot, outer: Spot | None) -> None:
    both = here.at("class").is_there and here.at("p99_wait").is_there
    if both:
        here.at("p99_wait").report("stands in place of class; take one of them out")
    built_in = PlacementSettings()
    low, high = here.at("cold_below_qps"), here.at("hot_above_qps")
    written = [spot for spot in (low, high) if spot.number is not None]
    if not written:
        return
    most = _inherited(high, outer, built_in.hot_above_qps)
    least = _inherited(low, outer, built_in.cold_below_qps)
    if least is not None and most is not None and least > most:
        written[0].report(f"cold_below_qps, {least:g}, must be at most hot_above_qps, {most:g}")


def _inherited(here: Spot, outer: Spot | None, built_in: float) -> float | None:
    """None when what holds cannot be read."""
    spots = [here] if outer is None else [here, outer.at(str(here.path[-1]))]
    found = next((spot for spot in spots if spot.is_there), None)
    return found.number if found else built_in


def _pin(model: Spot, default: Spot) -> None:
    own = model.at("placement", "pin")
    pin = own if own.is_there else default
    needs = _PIN_NEEDS.get(pin.text or "", ())
    sources = ("hot", "cold", "api")
    has = [key for key in sources if model.at(key).is_there]
    # A model without any of them has a problem of its own.
    if not needs or not has or any(key in has for key in needs):
        return
    way_out = "add it" if pin is own else "give it a pin of its own"
    need = " or ".join(needs)
    pin.report(f"{pin.text} needs {need}, which {dotted(model.path)} does not have; {way_out}")


def _ascending(quantiles: Spot) -> None:
    before: Spot | None = None
    for key in ("p50", "p90", "p99"):
        here = quantiles.at(key)
        if here.duration_s is None:
            continue
        if before and before.duration_s is not None and here.duration_s < before.duration_s:
            least = spelled_duration(before.duration_s)
            here.report(f"must be at least {before.path[-1]}, which is {least}")
        before = here


def _sleep(levels: Spot) -> None:
    light, deep = levels.at("level_1"), levels.at("level_2")
    shares = light.at("share").number, deep.at("share").number
    if shares[0] is not None and shares[1] is not None and shares[1] > shares[0]:
        deep.at("share").report(
            f"must be at most that of level_1, {shares[0]:g}: the deeper sleep holds less"
        )
    wakes = light.at("wake").duration_s, deep.at("wake").duration_s
    if wakes[0] is not None and wakes[1] is not None and wakes[1] < wakes[0]:
        deep.at("wake").report(
            f"must be at least that of level_1, {spelled_duration(wakes[0])}: the deeper sleep has"
            " more to read"
        )


def _device(cold: Spot, devices: Spot) -> None:
    named = cold.at("device")
    if not named.is_there:
        for key in ("memory", "host_memory"):
            if cold.at(key).is_there:
                cold.at(key).report("counts only on a device; name it under device")
        return
    if named.text is None or devices.path in devices.document.broken:
        return
    known = devices.value if isinstance(devices.value, dict) else {}
    if named.text not in known:
        hint = did_you_mean(named.text, known) or "; name it under devices"
        named.report(f"unknown device {shown(named.text)}{hint}")
        return
    if not cold.at("memory").is_there:
        named.report("needs memory beside it, which is what a running server takes of the device")
        return
    device = devices.at(named.text)
    _fits(cold.at("memory"), device.at("memory"), "running")
    if cold.at("sleep", "level_1").is_there:
        asleep = cold.at("host_memory")
        _fits(asleep if asleep.is_there else cold.at("memory"), device.at("host_memory"), "asleep")


def _fits(taken: Spot, there: Spot, state: str) -> None:
    if taken.size is not None and there.size is not None and taken.size > there.size:
        taken.report(
            f"{state} it takes {spelled_size(taken.size)}, and {dotted(there.path)} is"
            f" {spelled_size(there.size)}; it would never fit"
        )


def _budget(owner: Spot, models: list[Spot]) -> None:
    limit = owner.at("budget", "usd_per_day")
    if limit.number is None or any(model.has_broken or _has_price(model) for model in models):
        return
    who = "the model has none" if owner.path else "no model has one"
    limit.report(
        f"counts what has a price, and {who}; set cold.gpu_hour, hot.urls[].gpu_hour or api.price"
    )


def _has_price(model: Spot) -> bool:
    spots = [
        model.at("cold", "gpu_hour"),
        model.at("api", "price", "input"),
        model.at("api", "price", "output"),
        *(url.at("gpu_hour") for url in model.at("hot", "urls").entries()),
    ]
    return any(spot.number != 0 for spot in spots if spot.is_there)
