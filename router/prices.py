"""What a request to a model is expected to cost, for comparing models with each other."""

from typing import Literal

from config.schema import Config
from config.sources import Price
from policies.costs import request_usd
from router.planner import OUTPUT_GUESS
from router.planners import Planners

Basis = Literal["price", "api", "gpu_hour", "assumed", "none"]

REQUESTS_S = 8.0  # that one always-on server carries, as `cold.speed.requests` has it by default


class Prices:
    """Of the models of a configuration, in USD."""

    def __init__(self, config: Config, planners: Planners) -> None:
        self._config = config
        self._planners = planners

    def output_tokens(self, model: str, allowed: int | None) -> float:
        """As many as the model's answers have on the whole, but never more than is allowed."""
        planner = self._planners.get(model)
        mean = planner.output_mean if planner is not None else OUTPUT_GUESS
        return mean if allowed is None else min(mean, max(allowed, 0))

    def basis(self, model: str) -> Basis:
        """What `expected_usd` goes by."""
        facts = self._config.models[model]
        if _is_stated(facts.price):
            return "price"
        if facts.api is not None and _is_stated(facts.api.price):
            return "api"
        if facts.cold is not None:
            return "gpu_hour" if facts.cold.gpu_hour else "assumed"
        hot = facts.hot
        return "gpu_hour" if hot and any(item.gpu_hour for item in hot.urls) else "none"

    def expected_usd(self, model: str, input_tokens: float, output_tokens: float) -> float:
        """By the model's own rate card, else by its API's, else its share of a busy server."""
        facts = self._config.models[model]
        if _is_stated(facts.price):
            return _usd(facts.price, input_tokens, output_tokens)
        api_usd = self.api_usd(model, input_tokens, output_tokens)
        if api_usd is not None:
            return api_usd
        planner = self._planners.get(model)
        if planner is not None and facts.cold is not None:
            return planner.economics.hold_usd_s / planner.economics.requests_s
        hours_usd = [item.gpu_hour for item in facts.hot.urls] if facts.hot is not None else []
        return sum(hours_usd) / max(len(hours_usd), 1) / 3600 / REQUESTS_S

    def api_usd(self, model: str, input_tokens: float, output_tokens: float) -> float | None:
        """What its outside API charges; None where no price of one is stated."""
        api = self._config.models[model].api
        if api is None or not _is_stated(api.price):
            return None
        return _usd(api.price, input_tokens, output_tokens)


def _is_stated(price: Price) -> bool:
    return price.input > 0 or price.output > 0


def _usd(price: Price, input_tokens: float, output_tokens: float) -> float:
    return request_usd(input_tokens, output_tokens, price.input, price.output)
