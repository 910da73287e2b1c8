"""When one of the two models fails, is off, is slow, or may not be paid for."""

from typing import Any

import httpx2
import pytest

from router.cascades import JUDGED_TELL
from tests.cascades.scenes import UNSURE, pair, pieces, policy, streamed, text_of, whole
from tests.conftest import StartGateway
from tests.fakes.process import fake_command
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import End, error, error_event, events
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, counted, model, yaml

DEAD = "http://127.0.0.1:9/v1"  # the port of "discard", where nobody listens


def gateway_of(start: StartGateway, **models: Any) -> GatewayProcess:
    """`small` and `large` as given, and one policy over them."""
    return start(yaml(models, policies={"chat": policy()}))


def both_up(start: StartGateway, fakes: FakeServers) -> GatewayProcess:
    small, large = (model([url], retries=0) for url in fakes.urls)
    return gateway_of(start, small=small, large=large)


def ask(gateway: GatewayProcess, **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    body = {"model": "chat", "messages": HELLO, **more}
    return gateway.http.post("/v1/chat/completions", json=body, headers=headers)


def verdict(response: httpx2.Response) -> tuple[int, str | None, str | None]:
    headers = response.headers
    return (
        response.status_code,
        headers.get("x-lamplighter-cascade"),
        headers.get("x-lamplighter-model"),
    )


def slow(**more: Any) -> dict[str, Any]:
    """A model that is off, and that nobody expects to be there within a minute."""
    cold = {"command": fake_command(), "start_time": "60s", "gpu_hour": 2.0, "stop_within": "2s"}
    return {"served_as": "fake", "cold": {**cold, **more}}


@pytest.fixture
def up(fakes: FakeServers) -> dict[str, Any]:
    return model(fakes.urls[:1], retries=0)


def test_small_is_down(start_gateway: StartGateway, fakes: FakeServers, up: Any) -> None:
    gateway = gateway_of(start_gateway, small=model([DEAD], retries=0), large=up)
    # Once its breaker is open nobody asks it any more.
    assert verdict(ask(gateway)) in ((200, "small_failed", "large"), (200, "direct", "large"))
    assert verdict(ask(gateway)) == (200, "direct", "large")


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_small_refuses(start_gateway: StartGateway, fakes: FakeServers, status: int) -> None:
    gateway = both_up(start_gateway, fakes)
    fakes.script(error(status), whole("Paris", None))
    assert verdict(ask(gateway)) == (200, "small_failed", "large")


def test_small_is_silent(start_gateway: StartGateway, fakes: FakeServers, up: Any) -> None:
    small = model(fakes.urls[1:], retries=0, timeouts={"first_byte": "200ms"})
    gateway = gateway_of(start_gateway, small=small, large=up)
    fakes.script([End.STALL], whole("Paris", None))
    assert verdict(ask(gateway)) == (200, "small_failed", "large")


def test_large_is_off_and_would_be_late(
    start_gateway: StartGateway, fakes: FakeServers, up: Any
) -> None:
    gateway = gateway_of(start_gateway, small=up, large={**slow(), "max_wait": "5s"})
    fakes.script(whole("Rome perhaps", UNSURE))
    assert verdict(ask(gateway)) == (200, "kept", "small")
    assert gateway.model("large")["state"] == "off"
    fakes.script(streamed(*pieces("Rome perhaps", UNSURE)))
    assert text_of(ask(gateway, stream=True).text) == "Rome perhaps"


def test_long_answer_is_kept_without_its_logprobs(
    start_gateway: StartGateway, fakes: FakeServers, up: Any
) -> None:
    gateway = gateway_of(start_gateway, small=up, large={**slow(), "max_wait": "5s"})
    text = "word " * 15_000  # 2.6 MB with logprobs
    fakes.script(whole(text))
    response = ask(gateway)
    assert verdict(response) == (200, "kept", "small")
    assert response.json()["choices"][0]["message"]["content"] == text
    assert b'logprob"' not in response.content
    fakes.script(whole("word " * 30_000))  # 5 MB
    assert b'logprob"' not in ask(gateway).content


def test_large_is_off_and_would_be_late_for_this_caller(
    start_gateway: StartGateway, fakes: FakeServers, up: Any
) -> None:
    gateway = gateway_of(start_gateway, small=up, large=slow())
    fakes.script(whole("Rome perhaps", UNSURE))
    response = ask(gateway, headers={"x-lamplighter-max-wait": "5s"})
    assert verdict(response) == (200, "kept", "small")
    assert gateway.model("large")["state"] == "off"


def test_large_is_off_and_can_be_waited_for(
    start_gateway: StartGateway, fakes: FakeServers, up: Any
) -> None:
    gateway = gateway_of(start_gateway, small=up, large=slow(start_time="2s"))
    fakes.script(whole("Rome perhaps", UNSURE))
    response = ask(gateway)
    assert verdict(response) == (200, "escalated", "large")
    assert response.headers["x-lamplighter-cold-start"] == "true"


def test_small_is_off_and_large_is_ready(
    start_gateway: StartGateway, fakes: FakeServers, up: Any
) -> None:
    gateway = gateway_of(start_gateway, small=slow(), large=up)
    assert verdict(ask(gateway)) == (200, "direct", "large")
    assert gateway.model("small")["state"] == "off"


def test_both_are_off(start_gateway: StartGateway) -> None:
    gateway = gateway_of(
        start_gateway, small=slow(start_time="1s"), large=slow(start_time="2s", gpu_hour=20.0)
    )
    assert verdict(ask(gateway))[0] == 200


def test_large_that_is_asked_at_once_and_fails(
    start_gateway: StartGateway, fakes: FakeServers, up: Any
) -> None:
    gateway = gateway_of(start_gateway, small=slow(), large=up)
    fakes.script(error(503))
    assert verdict(ask(gateway)) == (200, "large_failed", "small")


def test_small_that_is_never_good_enough_is_not_asked_any_more(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    gateway = start_gateway(yaml(pair(fakes.urls), policies={"chat": policy()}))
    for _ in range(JUDGED_TELL):
        fakes.script(whole("Rome perhaps", UNSURE), whole("Paris", None))
        assert verdict(ask(gateway)) == (200, "escalated", "large")
    # One in a hundred is asked still, to learn whether it has become better.
    assert (200, "direct", "large") in {verdict(ask(gateway)) for _ in range(4)}


def test_large_has_no_money_left(start_gateway: StartGateway, fakes: FakeServers, up: Any) -> None:
    api = {"url": fakes.urls[1], "model": "fake", "price": {"input": 1e6, "output": 1e6}}
    gateway = gateway_of(start_gateway, small=up, large={"api": api, "budget": {"usd_per_day": 1}})
    fakes.script(whole("Rome perhaps", UNSURE), whole("Paris", None))
    assert verdict(ask(gateway)) == (200, "escalated", "large")
    response = spend_until_refused(gateway, fakes)
    assert verdict(response) == (200, "kept", "small")


def spend_until_refused(gateway: GatewayProcess, fakes: FakeServers) -> httpx2.Response:
    """Budgets are looked at once a second."""

    def small_ones() -> httpx2.Response | None:
        fakes.reset()
        fakes.script(whole("Rome perhaps", UNSURE), whole("Paris", None))
        response = ask(gateway)
        return response if response.headers["x-lamplighter-model"] == "small" else None

    found: httpx2.Response = eventually(small_ones, what="the budget is seen to be spent")
    return found


def test_large_fails_after_the_escalation(start_gateway: StartGateway, fakes: FakeServers) -> None:
    gateway = both_up(start_gateway, fakes)
    fakes.script(whole("Rome perhaps", UNSURE), error(500))
    response = ask(gateway)
    assert verdict(response) == (200, "large_failed", "small")
    assert response.json()["choices"][0]["message"]["content"] == "Rome perhaps"
    assert response.json()["choices"][0]["logprobs"] is None


def test_large_fails_after_the_escalation_of_a_stream(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    gateway = both_up(start_gateway, fakes)
    fakes.script(streamed(*pieces("Rome perhaps", UNSURE)), events(End.RESET))
    response = ask(gateway, stream=True)
    assert text_of(response.text) == "Rome perhaps"
    assert response.headers["x-lamplighter-cascade"] == "large_failed"


def test_both_are_down(start_gateway: StartGateway) -> None:
    gateway = gateway_of(
        start_gateway, small=model([DEAD], retries=0), large=model([DEAD], retries=0)
    )
    response = ask(gateway)
    assert response.status_code in (502, 503)
    assert response.headers["x-lamplighter-policy"] == "chat"


def test_sure_stream_of_small_needs_no_large_model(
    start_gateway: StartGateway, fakes: FakeServers, up: Any
) -> None:
    gateway = gateway_of(start_gateway, small=up, large=model([DEAD], retries=0))
    fakes.script(streamed(*pieces("Paris it is")))
    assert text_of(ask(gateway, stream=True).text) == "Paris it is"


def test_stream_of_small_that_begins_with_an_error(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    gateway = both_up(start_gateway, fakes)
    fakes.script(events(error_event("out of memory")), streamed(*pieces("Paris it is")))
    response = ask(gateway, stream=True)
    assert text_of(response.text) == "Paris it is"
    assert response.headers["x-lamplighter-cascade"] == "small_failed"
    assert "out of memory" not in response.text
    assert counted(gateway, "large") == {"ok": 1.0}
    assert counted(gateway, "small") == {"error": 1.0}
