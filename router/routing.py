"""From the name that a caller asked for to a journey: a model of that name, or what a policy says.

Owns the policies in force, compiled, and the rules' settings laid over those of the models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from backends.fleet import Snapshot
from config.schema import Config
from policies.facts import Pending
from policies.rules import CompiledPolicy, CompiledRule, compile_policy, decide
from policies.split import pick
from router.cascade import Cascade
from router.cascades import Cascades
from router.errors import Denied, NotFound, UnknownModel
from router.facts import RequestFacts
from router.journey import Journey, Leg
from router.judges import Judge
from router.labels import Label, Labels
from router.pins import Pin, Pins
from router.planners import Planners
from router.record import Record
from router.request import Request
from router.route import Prepared, Route, prepared, with_defaults
from router.shadows import Shadows
from router.world import LiveWorld, Readers


class Served(Protocol):
    """A fleet, as far as requests look at it."""

    @property
    def snapshot(self) -> Snapshot: ...


@dataclass(frozen=True)
class Heard:
    """Who hears of what. `arrived`: each request once its model is known; `ended`: those to one
    model that are not, or not yet, the caller's own. `label` takes what is learned of a cascade,
    `labelled` counts it by policy and source; `dropped`: shadow requests without room, by policy.
    """

    arrived: Callable[[Record], None]
    ended: Callable[[Record], None]
    label: Callable[[Label], None]
    labelled: Callable[[str, str], None]
    dropped: Callable[[str], None]


def _nothing(*told: object) -> None:
    """For a router whose requests go nowhere."""


NOBODY = Heard(_nothing, _nothing, _nothing, _nothing, _nothing)


class Router:
    """Sends requests on their journeys over the fleet as it is configured at that moment."""

    def __init__(
        self,
        fleet: Served,
        clock: Callable[[], float],
        epoch: Callable[[], float],
        planners: Planners,
        spent_usd: Callable[[str | None], float],
        heard: Heard,
    ) -> None:
        """`spent_usd` says what a model, or all of them, cost today."""
        self.fleet = fleet
        self.pins = Pins()
        self.readers = Readers()
        self.clock = clock
        self._epoch = epoch
        self.planners = planners
        self._spent_usd = spent_usd
        self._arrived = heard.arrived
        self.labels = Labels(epoch, heard.label, heard.labelled)
        self.shadows = Shadows(self._journey, clock, heard.ended, self.labels, heard.dropped)
        self.cascades = Cascades(
            planners, clock, self._journey, heard.ended, self.labels, self.shadows
        )
        self._policies: dict[str, CompiledPolicy] = {}
        self._prepared: dict[tuple[str, int], Prepared] = {}

    # --- policies -------------------------------------------------------------------------------

    def follow(self, config: Config, judges: Mapping[str, Judge]) -> None:
        """Obey the policies of a configuration from now on, and judge by these."""
        self.cascades.follow(judges)
        policies = {
            name: compile_policy(name, policy, config.policy_lines(name))
            for name, policy in config.policies.items()
        }
        self._prepared = {
            (name, rule.number): prepared(config, rule.rule)
            for name, policy in policies.items()
            for rule in policy.rules
        }
        self._policies = {each: policies[name] for each, name in config.policy_names.items()}

    async def load(self, config: Config) -> None:
        """Load what the policies will ask for, so that no request has to wait for it."""
        await self.readers.load(config)
        await self.cascades.load()

    def policy(self, request: Request) -> CompiledPolicy | None:
        """The policy that the request asks for, if it asks for one and not for a model."""
        return self._policies.get(request.body.model) if request.body is not None else None

    async def decide(self, policy: CompiledPolicy, request: Request, record: Record) -> Route:
        """What the policy says. Raises Denied; UnknownModel if a reload takes the policy away."""
        record.policy = policy.name
        facts = self.facts(request)
        while isinstance(rule := decide(policy, facts), Pending):
            await facts.fetch(rule)
            now = self.policy(request)
            if now is None:
                raise unknown_model(self.fleet.snapshot, facts.model)
            if now is not policy:  # a reload came between: its models may be others
                return await self.decide(now, request, record)
        record.rule = rule.number
        counted = "".join(f", {each.tokens} input tokens ({each.how})" for each in facts.counts)
        record.reasons.append(f"policy '{policy.name}', rule {rule.label}{counted}")
        if rule.rule.deny is not None:
            raise Denied(rule.rule.deny)
        return self.route(policy, rule, facts, request)

    def route(
        self, policy: CompiledPolicy, rule: CompiledRule, facts: RequestFacts, request: Request
    ) -> Route:
        """Where the rule that matched sends the request; for a rule that does not refuse it."""
        affinity = facts.affinity_key(policy.policy.affinity)
        ready = self._prepared[policy.name, rule.number]
        return Route(
            self.fleet.snapshot,
            policy.name,
            rule,
            ready,
            self._first_model(rule, affinity, request),
            with_defaults(request, ready.defaults),
            facts,
            affinity,
            policy.policy.mirror,
        )

    def facts(
        self, request: Request, epoch_s: float | None = None, *, asks_servers: bool = True
    ) -> RequestFacts:
        """What rules may ask about the request, as things are now; or as if it came then.

        Without `asks_servers` no model server is asked to count tokens.
        """
        world = LiveWorld(
            self.fleet.snapshot,
            self.planners,
            self._spent_usd,
            self.readers,
            asks_servers=asks_servers,
        )
        return RequestFacts(request, world, self._epoch() if epoch_s is None else epoch_s)

    def _first_model(self, rule: CompiledRule, affinity: str | None, request: Request) -> str:
        """The one that has what the request continues, else the rule's choice."""
        use = rule.rule.use
        assert use is not None
        pin = self.pins.find(request.follows_response) if request.follows_response else None
        if pin is not None and pin.model in use.models:
            return pin.model
        if use.split is not None:
            return pick(use.split, affinity if affinity is not None else request.id)
        return use.models[0]

    # --- journeys -------------------------------------------------------------------------------

    def begin(self, request: Request, record: Record) -> Journey:
        """The journey to the model that the caller named. Raises UnknownModel, NotFound.

        `record.received_s` must be set: the time that the request may wait runs from there.
        """
        return self._journey(self.fleet.snapshot, request, record, self.plain_leg(request))

    def plain_leg(self, request: Request) -> Leg:
        """The request's way to the model that it names. Raises UnknownModel, NotFound."""
        snapshot = self.fleet.snapshot
        model = self._model(snapshot, request)
        return Leg(model, snapshot.config.settings(model))

    def begin_route(self, route: Route, record: Record) -> Journey | Cascade:
        """The journey to where a policy sends the request, and to where it mirrors it."""
        self.shadows.mirror(route)
        if route.use.cascade is not None and route.request.follows_response is None:
            return Cascade(self.cascades.course(route), route, record)
        return self._journey(route.snapshot, route.request, record, route.leg(route.model))

    def _journey(self, snapshot: Snapshot, request: Request, record: Record, leg: Leg) -> Journey:
        pin = self._pin(request)
        record.model = leg.model
        record.priority = leg.priority_of(request)
        self._arrived(record)
        if pin is not None and pin.model != leg.model:
            pin = None  # a stored response is no way to another model than the one asked for
        return Journey(snapshot, request, record, leg, pin, self.pins, self.planners, self.clock)

    def _pin(self, request: Request) -> Pin | None:
        response_id = request.follows_response
        if response_id is None:
            return None
        pin = self.pins.find(response_id)
        if pin is None and request.body is None:
            raise NotFound(
                f"response '{response_id}' is not known here: responses are kept by the model "
                "server that made them, and only while it runs"
            )
        return pin

    def _model(self, snapshot: Snapshot, request: Request) -> str:
        if request.body is None:
            pin = self._pin(request)
            assert pin is not None
            if pin.model not in snapshot.config.models:
                raise NotFound(
                    f"response '{request.response_id}' is gone: model '{pin.model}', which made"
                    " it, left the configuration"
                )
            return pin.model
        asked = request.body.model
        model = snapshot.config.resolve(asked)
        if model is None:
            raise unknown_model(snapshot, asked)
        return model


def unknown_model(snapshot: Snapshot, asked: str) -> UnknownModel:
    near = snapshot.config.near(asked)
    names = ", ".join(f"'{name}'" for name in near)
    hint = f"did you mean {names}?" if near else "GET /v1/models lists the names"
    shown = asked if len(asked) <= 200 else asked[:200] + "..."
    return UnknownModel(f"model '{shown}' does not exist; {hint}", param="model")
