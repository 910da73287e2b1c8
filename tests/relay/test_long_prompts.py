"""Long prompts are given up as soon as they are answered, however long the answer lasts."""

import json
from contextlib import ExitStack

import psutil

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import End, chunk, events
from tests.proxy.scenes import model, settles, yaml
from tests.relay.callers import Caller, request

STREAMS = 30
PROMPT = 8_000_000  # bytes; 240 MB in all


def test_prompt_of_a_stream_is_not_kept(start_gateway: StartGateway, fakes: FakeServers) -> None:
    gateway = start_gateway(yaml({"fake": model(fakes.urls[:1], served_as="other")}))
    fakes.script(*[events(chunk("a"), End.STALL)] * STREAMS)
    messages = [{"role": "user", "content": "x" * PROMPT}]
    body = json.dumps({"model": "fake", "stream": True, "messages": messages}).encode()
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        for number in range(STREAMS):
            caller = stack.enter_context(Caller(gateway))
            caller.send(request(body)).until(b"data: ")
            assert gateway.model("fake")["in_flight"] == number + 1
        assert process.memory_info().rss - before < 8 * PROMPT
    settles(gateway, "fake")
