"""What a decision over 50 rules costs: CPU time of one core, no network, no embedding.

    python -m load_tests.rules

Budget: 15 us for a decision whose last rule matches, the reading of the request's facts included.
"""

import argparse
import gc
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from config.load import parse
from policies.facts import Count
from policies.rules import CompiledPolicy, compile_policy, decide
from router.body import parse_json
from router.facts import RequestFacts
from router.request import Request
from router.tokens import Ratios, Tokens

BUDGET_US = 15.0
EPOCH_S = 1_795_000_000.0
MODELS = ("small", "large", "code", "vision")


class Still:
    """A world that is told at once, as the gateway's is."""

    def hot(self, model: str) -> bool:
        return model == "small"

    def budget_left(self, model: str | None) -> float | None:
        return 0.7

    def __init__(self) -> None:
        self._tokens = Tokens(Ratios(), lambda model: model)

    def count(self, request: Request, model: str) -> Count:
        return self._tokens.count(request, model)

    async def exact(self, request: Request, model: str) -> Count:
        raise NotImplementedError

    async def language(self, text: str) -> str | None:
        raise NotImplementedError

    async def similarity(self, text: str, to: object) -> float | None:
        raise NotImplementedError


def realistic() -> list[str]:
    """49 rules of the kinds that teams write, none of which matches the plain request."""
    teams = [
        f"{{when: {{header: {{x-team: team{n}}}, tools: true}}, use: large}}" for n in range(10)
    ]
    topics = [
        f"{{when: {{keyword: [topic{n}, 'subject {n}', matter{n}]}}, use: large}}"
        for n in range(10)
    ]
    patterns = [f"{{when: {{regex: '(?i)ticket[- ]{n}[0-9]{{4}}'}}, use: code}}" for n in range(5)]
    sizes = [
        f"{{when: {{input_tokens: {{above: {90000 - 1000 * n}}}}}, use: large}}" for n in range(5)
    ]
    callers = [
        f"{{when: {{key: 'sha256:{n:064x}', priority: [low, high]}}, use: small}}" for n in range(5)
    ]
    shapes = [
        "{when: {image: true, json_schema: true}, use: vision}",
        "{when: {image: true}, use: vision}",
        "{when: {audio: true}, deny: no audio here}",
        "{when: {tools: true, json_schema: true}, use: code}",
        "{when: {json_schema: true}, use: code}",
        "{when: {output_tokens: {above: 16000}}, use: large}",
    ]
    states = [
        f"{{when: {{hot: [large, {model}], output_tokens: {{below: {n + 1}}}}}, use: large}}"
        for n, model in enumerate(MODELS[1:])
    ] + [
        "{when: {budget_left: {below: 0.1}, header: {x-tier: free}}, deny: the day's budget}",
        "{when: {time: {at: 'Mon 03:00', for: 1s, tz: Europe/Berlin}}, use: small}",
    ]
    mixed = [
        "{when: {any_of: [{tools: true}, {header: {x-agent: '*'}}]}, use: code}",
        "{when: {not: {any_of: [{header: {authorization: '*'}}, {tools: true}]}}, use: large}",
        "{when: {all_of: [{keyword: urgent}, {priority: high}]}, use: large}",
    ]
    return teams + topics + patterns + sizes + callers + shapes + states + mixed


def policy_of(rules: list[str]) -> CompiledPolicy:
    models = "".join(f"  {name}: {{api: {{url: http://h/v1}}}}\n" for name in MODELS)
    lines = "".join(f"      - {rule}\n" for rule in [*rules, "{use: small}"])
    budget = "budget: {usd_per_day: 100}\n"
    text = f"version: 1\n{budget}models:\n{models}policies:\n  chat:\n    first_match:\n{lines}"
    text = text.replace("url: http://h/v1}", "url: http://h/v1, price: {input: 1}}")
    config = parse(text, "rules.yaml", {})
    return compile_policy("chat", config.policies["chat"], config.policy_lines("chat"))


def shuffled_rules(policy: CompiledPolicy) -> CompiledPolicy:
    """The same without order, as the loader would not take it; the last rule stays the last."""
    *rules, last = policy.policy.first_match
    random.Random(5).shuffle(rules)
    mixed_up = policy.policy.model_copy(update={"first_match": (*rules, last)})
    return compile_policy("chat", mixed_up)


def request_of(words: int, headers: dict[bytes, bytes], **keys: Any) -> Request:
    prose = "please tell me how the invoice of last month came about and what we owe "
    text = (prose * (words // 14 + 1))[: words * 6]
    messages = [
        {"role": "system", "content": "You are a helpful assistant of a shop."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello! What can I do for you?"},
        {"role": "user", "content": text},
    ]
    body = json.dumps({"model": "chat", "messages": messages, "stream": True, **keys})
    fields = {b"authorization": b"Bearer sk-test", b"content-type": b"application/json", **headers}
    raw = body.encode()
    return Request(
        "r", "POST", b"/chat/completions", "chat", list(fields.items()), fields, parse_json(raw)
    )


def cost_us(run: Callable[[], object], times: int, rounds: int) -> tuple[float, float]:
    """Least and median of rounds, each a mean: CPU time of this thread.

    The least is what the program takes; the others share the caches with whoever else runs.
    """
    means = []
    for _ in range(rounds):
        begin = time.thread_time()
        for _ in range(times):
            run()
        means.append((time.thread_time() - begin) / times * 1e6)
    return min(means), statistics.median(means)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    policy = policy_of(realistic())
    assert len(policy.rules) == 50
    shuffled = shuffled_rules(policy)
    world = Still()
    last = request_of(100, {})
    first = request_of(100, {b"x-team": b"team0"}, tools=[{"type": "function"}])
    mixed = [
        first,
        request_of(100, {}, response_format={"type": "json_object"}),
        request_of(30, {}, max_tokens=20000),
        request_of(300, {b"x-team": b"team7"}),
        last,
    ]
    cases: list[tuple[str, CompiledPolicy, list[Request]]] = [
        ("the first rule matches", policy, [first]),
        ("the last rule matches, 100 words", policy, [last]),
        ("  rules in any order", shuffled, [last]),
        ("the last rule matches, 1000 words", policy, [request_of(1000, {})]),
        ("mixed", policy, mixed),
    ]
    gc.freeze()
    print(f"{platform.machine()}, {_processor()}, Python {platform.python_version()}")
    print(f"{'50 rules':36} {'facts read anew':>22} {'facts known':>22}   us, least (median)")
    worst = 0.0
    for name, rules_of, requests in cases:
        known = [RequestFacts(request, world, EPOCH_S) for request in requests]
        share = 1 / len(requests)

        def anew(of: CompiledPolicy = rules_of, requests: list[Request] = requests) -> None:
            for request in requests:
                decide(of, RequestFacts(request, world, EPOCH_S))

        def again(of: CompiledPolicy = rules_of, known: list[RequestFacts] = known) -> None:
            for facts in known:
                decide(of, facts)

        figures = [cost_us(run, options.times, options.rounds) for run in (anew, again)]
        shown = [f"{a * share:.1f} ({b * share:.1f})" for a, b in figures]
        print(f"{name:36} {shown[0]:>22} {shown[1]:>22}")
        if " 100 words" in name:
            worst = figures[0][0]
    print(f"budget {BUDGET_US:g} us, with facts: {'held' if worst <= BUDGET_US else 'MISSED'}")
    return 0 if worst <= BUDGET_US else 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    raise SystemExit(main())
