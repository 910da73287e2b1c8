"""Which models a worker serves by itself, and its part of each limit."""

import json
import pickle
from typing import Any

import pytest

from config.load import parse
from config.schema import Config
from proxy.shares import share_of

HOT = {"urls": ["http://one/v1"]}
COLD = {"command": "serve --port {port}"}


def config(models: dict[str, Any], **more: Any) -> Config:
    return parse(json.dumps({"version": 1, "models": models, **more}), "f.yaml", {})


def limited(limit: int) -> dict[str, Any]:
    return {"urls": [{"url": "http://one/v1", "max_concurrency": limit}, "http://two/v1"]}


def limit_of(share: Config, model: str) -> int | None:
    hot = share.models[model].hot
    assert hot is not None
    return hot.urls[0].max_concurrency


def test_models_without_state_of_their_own_are_the_workers() -> None:
    share = share_of(config({"hot": {"hot": HOT}, "out": {"api": {"url": "https://x/v1"}}}), 2, 0)
    assert set(share.models) == {"hot", "out"}


@pytest.mark.parametrize(
    "model",
    [
        {"cold": COLD},
        {"hot": HOT, "cold": COLD},
        {"hot": HOT, "fallback": ["started"]},
        {"hot": HOT, "fallback": ["over"]},
    ],
    ids=["cold", "hot and cold", "falls back", "over another"],
)
def test_model_that_may_need_an_instance_is_the_owners(model: dict[str, Any]) -> None:
    started = {"cold": COLD, "aliases": ["alias"]}
    others = {"started": started, "over": {"hot": HOT, "fallback": ["started"]}}
    share = share_of(config({"asked": model, "hot": {"hot": HOT}, **others}), 2, 0)
    assert set(share.models) == {"hot"}
    assert share.resolve("asked") is None
    assert share.resolve("alias") is None


def test_model_whose_budget_can_run_out_is_the_owners() -> None:
    api = {"url": "https://x/v1", "price": {"input": 1}}
    own = {"m": {"api": api, "budget": {"usd_per_day": 1}}, "free": {"hot": HOT}}
    assert set(share_of(config(own), 2, 0).models) == {"free"}
    shared = config({"m": {"api": api}, "free": {"hot": HOT}}, budget={"usd_per_day": 1})
    assert set(share_of(shared, 2, 0).models) == {"free"}


@pytest.mark.parametrize(("limit", "workers"), [(4, 2), (3, 2), (8, 3), (64, 64), (100, 7)])
def test_shares_of_a_limit_add_up_to_it(limit: int, workers: int) -> None:
    whole = config({"m": {"hot": limited(limit)}})
    parts = [limit_of(share_of(whole, workers, seat), "m") or 0 for seat in range(workers)]
    assert sum(parts) == limit
    assert max(parts) - min(parts) <= 1


def test_limit_too_small_to_be_divided_stays_whole_with_the_owner() -> None:
    models = {"m": {"hot": limited(2)}, "n": {"hot": HOT, "fallback": ["m"]}, "o": {"hot": HOT}}
    assert set(share_of(config(models), 3, 0).models) == {"o"}
    assert set(share_of(config(models), 2, 0).models) == {"m", "n", "o"}


def test_url_without_a_limit_has_none_in_a_share() -> None:
    assert limit_of(share_of(config({"m": {"hot": HOT}}), 2, 0), "m") is None


def test_queue_is_divided_and_still_takes_one_longest_body() -> None:
    models = {"m": {"hot": HOT, "queue": {"requests": 9, "bytes": "64MiB"}}, "n": {"hot": HOT}}
    share = share_of(config(models, defaults={"queue": {"requests": 100}}), 4, 0)
    assert share.settings("m").queue.requests == 3
    assert share.settings("m").queue.bytes == 32 * 2**20
    assert share.settings("n").queue.requests == 25
    assert share.settings("n").queue.bytes == 64 * 2**20


def test_all_else_is_as_it_was_and_survives_the_way_to_a_worker() -> None:
    key = {"url": "https://x/v1", "key": "sk-of-the-api"}
    models = {"m": {"api": key, "aliases": ["other"], "max_wait": "7s"}, "n": {"cold": COLD}}
    whole = config(models, server={"max_body": "1MiB"}, defaults={"retries": 5})
    whole.resolve("n")  # which makes an index that a share must not have
    share: Config = pickle.loads(pickle.dumps(share_of(whole, 2, 0)))
    assert share.resolve("other") == "m"
    assert share.resolve("n") is None
    assert share.settings("m").max_wait == 7.0
    assert share.settings("m").retries == 5
    assert share.server.max_body == 2**20
    api = share.models["m"].api
    assert api is not None
    assert api.key is not None
    assert api.key.get_secret_value() == "sk-of-the-api"
