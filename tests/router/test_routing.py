"""From names to routes, while the configuration changes."""

import json
from collections.abc import Callable

import pytest

from config.load import parse
from config.policy import Similar
from config.schema import Config
from router.body import parse_json
from router.errors import UnknownModel
from router.record import Record
from router.request import Request
from router.routing import Router
from router.stated import stated_router


def config(*policies: str) -> Config:
    urls = "{hot: {urls: [http://h/v1]}}"
    models = f"models: {{old: {urls}, new: {urls}}}\n"
    rules = "".join(f"  {policy}\n" for policy in policies)
    return parse(f"version: 1\n{models}policies:\n{rules}", "f.yaml", {})


NEAR = "chat: {first_match: [{when: {similar_to: [a cat]}, use: old}, {use: old}]}"
OLD = config(NEAR)
REQUEST = Request(
    id="r",
    method="POST",
    target=b"/chat/completions",
    dialect="chat",
    headers=[],
    fields={},
    body=parse_json(
        json.dumps({"model": "chat", "messages": [{"role": "user", "content": "my cat"}]}).encode()
    ),
)


class Reloading:
    """Examples that are embedded just while a new file is taken over."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self._reload = reload

    async def similarity(self, text: str, to: Similar) -> float | None:
        self._reload()
        return 1.0


def deciding(monkeypatch: pytest.MonkeyPatch, then: Config) -> Router:
    router = stated_router(OLD, {}, {}, 0.0)
    examples = Reloading(lambda: router.follow(then, {}))
    monkeypatch.setattr(router.readers, "examples", examples)
    return router


@pytest.mark.anyio
async def test_reload_in_the_middle_of_a_decision_decides_by_the_new_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = deciding(monkeypatch, config("chat: {first_match: [{use: new}]}"))
    policy, record = router.policy(REQUEST), Record("r", "chat", 0.0)
    assert policy is not None
    route = await router.decide(policy, REQUEST, record)
    assert (route.model, record.rule) == ("new", 1)


@pytest.mark.anyio
async def test_policy_that_a_reload_takes_away_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    router = deciding(monkeypatch, config("other: {first_match: [{use: new}]}"))
    policy = router.policy(REQUEST)
    assert policy is not None
    with pytest.raises(UnknownModel):
        await router.decide(policy, REQUEST, Record("r", "chat", 0.0))
