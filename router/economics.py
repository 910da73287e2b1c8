"""What the configuration says of one model's costs, in the units that decisions use."""

from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from config.schema import Config
from config.sources import Sleep
from policies.keep_alive import Rule
from policies.placement import PlacementName, Rules
from policies.rungs import Ladder, Rung, RungName, ladder

ASSUMED_GPU_HOUR_USD = 1.0  # weighs holding against waiting when no price is stated
FIRST_START_S = (20.0, 20.0, 20.0)  # p50, p90 and p99, before any start was measured
INTERACTIVE_P99_WAIT_S = 10.0


class SleepRung(Struct, frozen=True):
    """A sleep level that the server offers; `share` is of the price of holding it hot."""

    name: RungName
    share: float
    wake_s: float


class Economics(Struct, frozen=True):
    """Seconds and USD. `api_usd` is per input and per output token; None without a stated price.

    `priced` says whether the price of a server is stated and not assumed.
    """

    model: str
    has_hot: bool = False
    has_cold: bool = True
    hold_usd_s: float = ASSUMED_GPU_HOUR_USD / 3600
    priced: bool = False
    delay_usd_s: float = 0.0
    sleep: tuple[SleepRung, ...] = ()
    start_s: tuple[float, float, float] = FIRST_START_S
    idle: float | Rule = "clamped"
    jitter: float = 0.0
    api_usd: tuple[float, float] | None = None
    requests_s: float = 8.0
    input_tokens_s: float = 5000.0
    output_tokens_s: float = 50.0
    max_instances: int = 1
    rules: Rules = Rules(None, False, 10.0, 1.0, float("inf"), 0.15, 600.0)
    place_every_s: float = 300.0
    usd_per_day: float | None = None

    @property
    def start_mean_s(self) -> float:
        """Mean of a start as configured: half are taken as p50, the others as evenly between."""
        p50, p90, p99 = self.start_s
        return 0.5 * p50 + 0.4 * (p50 + p90) / 2 + 0.1 * (p90 + p99) / 2

    @property
    def prospective(self) -> tuple[PlacementName, ...]:
        """The placements between which its rule can choose; money cannot on an assumed price."""
        if not self.has_cold:
            return ()
        if self.rules.by_qps:
            return ("always_on", "on_demand")
        if not self.priced:
            return ("on_demand",)
        return ("always_on", "on_demand", *(("api",) if self.api_usd is not None else ()))

    @property
    def holds(self) -> dict[RungName, float]:
        """What each rung that is configured costs to hold, USD per second; from hot to off."""
        held = {level.name: level.share * self.hold_usd_s for level in self.sleep}
        return {"hot": self.hold_usd_s, **held, "off": 0.0}

    def ladder(
        self, wakes_s: Mapping[RungName, float], waiting_usd_s: Callable[[RungName], float]
    ) -> Ladder:
        """The rungs that `wakes_s` names, each wake at the price of the device and of who waits."""
        rungs = [Rung("hot", self.hold_usd_s, 0.0, 0.0)]
        for name, hold_usd_s in self.holds.items():
            if name != "hot" and name in wakes_s:
                usd_s = self.hold_usd_s + waiting_usd_s(name)
                rungs.append(Rung(name, hold_usd_s, wakes_s[name], wakes_s[name] * usd_s))
        return ladder(rungs)

    def service_s(self, input_tokens: float, output_tokens: float) -> float:
        """How long one request keeps a server busy, from its tokens."""
        return input_tokens / self.input_tokens_s + output_tokens / self.output_tokens_s


def economics(config: Config, name: str) -> Economics:
    """Those of a model of a configuration."""
    model, settings = config.models[name], config.settings(name)
    cold, api, chosen = model.cold, model.api, settings.placement
    p99_wait_s = chosen.p99_wait
    if p99_wait_s is None:
        interactive = chosen.class_ == "interactive"
        p99_wait_s = INTERACTIVE_P99_WAIT_S if interactive else settings.max_wait
    facts = Economics(
        model=name,
        has_hot=model.hot is not None,
        has_cold=cold is not None,
        delay_usd_s=settings.delay_hour / 3600,
        api_usd=(api.price.input / 1e6, api.price.output / 1e6)
        if api is not None and (api.price.input or api.price.output)
        else None,
        rules=Rules(
            chosen.pin,
            chosen.rule == "qps",
            chosen.hot_above_qps,
            chosen.cold_below_qps,
            p99_wait_s,
            chosen.hysteresis,
            chosen.dwell,
        ),
        place_every_s=chosen.every,
        usd_per_day=model.budget.usd_per_day,
    )
    if cold is None:
        return facts
    levels: tuple[tuple[RungName, Sleep | None], ...] = (
        ("sleep_1", cold.sleep.level_1),
        ("sleep_2", cold.sleep.level_2),
    )
    return replace(
        facts,
        hold_usd_s=(cold.gpu_hour or ASSUMED_GPU_HOUR_USD) / 3600,
        priced=cold.gpu_hour > 0,
        sleep=tuple(SleepRung(n, level.share, level.wake) for n, level in levels if level),
        start_s=cold.start_time.points if cold.start_time is not None else FIRST_START_S,
        idle=cold.idle,
        jitter=cold.jitter,
        requests_s=cold.speed.requests,
        input_tokens_s=cold.speed.input,
        output_tokens_s=cold.speed.output,
        max_instances=cold.max_instances,
    )
