"""What `lamplighter cost` is told, by options or by a model of a configuration file."""

import math
from dataclasses import asdict, dataclass

from config.schema import Cold, Hot, Model
from policies.costs import AlwaysOn, Api, Placement, Way, request_usd
from policies.on_demand import OnDemand

START_S = 20.0  # what a configuration without cold.start_time means


class Missing(Exception):
    """Too little was given, or what cannot be compared; the message names the options."""


@dataclass(frozen=True)
class Inputs:
    """Durations in seconds, prices in USD, those of an API per million tokens. None: not given."""

    request_s: float | None = None
    on_demand_hour: float | None = None
    concurrency: int | None = None
    start_s: float | None = None
    idle_s: float | None = None
    always_on_hour: float | None = None
    always_on_concurrency: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    api_input: float | None = None
    api_output: float | None = None

    def or_else(self, other: "Inputs") -> "Inputs":
        """With the other's values where nothing is given here."""
        return Inputs(**asdict(other) | {n: v for n, v in asdict(self).items() if v is not None})

    def ways(self) -> tuple[float, dict[Placement, Way]]:
        """How long a request takes, and each way whose price is given. Raises Missing."""
        found: dict[Placement, Way] = {}
        if self.always_on_hour:
            most = math.inf if self.always_on_concurrency is None else self.always_on_concurrency
            found["always_on"] = AlwaysOn(self.always_on_hour, most)
        if self.on_demand_hour:
            found["on_demand"] = self._on_demand(self.on_demand_hour)
        if self.api_input or self.api_output:
            found["api"] = self._api()
        if not found:
            raise Missing(
                "no price to compare: give two or three of --gpu-hour (or --gpu-second),"
                " --always-on-hour, --api-input with --api-output, or a --config whose model has"
                " gpu_hour or an api.price"
            )
        if self.request_s is None:
            raise Missing(
                "give --request-s; or --input-tokens and --output-tokens with a --config whose"
                " model has a cold part, for its speed"
            )
        return self.request_s, found

    def _on_demand(self, usd_per_hour: float) -> OnDemand:
        idle_s = self.idle_s or 0.0
        if math.isinf(idle_s):
            raise Missing("idle: never is a server that is always on: give --idle-s")
        return OnDemand(usd_per_hour, self.concurrency or 1, self.start_s or 0.0, idle_s)

    def _api(self) -> Api:
        if self.input_tokens is None or self.output_tokens is None:
            raise Missing("the outside API is paid by token: give --input-tokens, --output-tokens")
        prices = (self.api_input or 0.0, self.api_output or 0.0)
        return Api(request_usd(self.input_tokens, self.output_tokens, *prices))


def of_model(model: Model, options: Inputs) -> Inputs:
    """What a model's configuration says; `options` has the tokens, and wins where both say it."""
    cold, hot, api = model.cold, model.hot, model.api
    found = Inputs()
    if cold is not None:
        found = _of_cold(cold, options)
    if hot is not None:
        found = _of_hot(hot).or_else(found)
    if api is not None:
        found = Inputs(api_input=api.price.input, api_output=api.price.output).or_else(found)
    return found


def _of_cold(cold: Cold, options: Inputs) -> Inputs:
    """The same server, held for ever, is the always-on one of a model that has none."""
    request_s = options.request_s
    if request_s is None and None not in (options.input_tokens, options.output_tokens):
        reading_s = (options.input_tokens or 0.0) / cold.speed.input
        request_s = reading_s + (options.output_tokens or 0.0) / cold.speed.output
    concurrency = cold.max_concurrency
    if concurrency is None and request_s:
        concurrency = max(int(cold.speed.requests * request_s), 1)
    start_s = options.start_s
    if start_s is None:
        start_s = cold.start_time.points[0] if cold.start_time is not None else START_S
    return Inputs(
        request_s=request_s or None,
        on_demand_hour=cold.gpu_hour,
        concurrency=concurrency,
        start_s=start_s,
        # The rules weigh holding against starting: about as long as a start costs.
        idle_s=start_s if isinstance(cold.idle, str) else cold.idle,
        always_on_hour=cold.gpu_hour,
        always_on_concurrency=concurrency,
    )


def _of_hot(hot: Hot) -> Inputs:
    limits = [url.max_concurrency for url in hot.urls]
    return Inputs(
        always_on_hour=sum(url.gpu_hour for url in hot.urls),
        always_on_concurrency=math.inf if None in limits else sum(n or 0 for n in limits),
    )
