"""A configuration with a policy of every kind, and requests to it, explained without a server."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from config.load import parse
from proxy.question import headers_of, question
from router.explain import explain
from router.explanation import Explanation
from router.routing import Router
from router.stated import Stated, stated_router

TEXT = """\
version: 1
admin: {key: "the-admin-key"}
models:
  small:
    hot: {urls: [{url: http://127.0.0.1:9/v1, key: "key-of-small", gpu_hour: 0.288}]}
  large:
    aliases: [big]
    cold:
      command: "no-such-program --port {port}"
      env: {HF_TOKEN: "token-of-large"}
      gpu_hour: 3.6
      start_time: 40s
      speed: {requests: 10, input: 1000, output: 10}
      sleep: {level_1: {share: 0.2, wake: 5s}}
      max_concurrency: 2
  outside:
    api: {url: http://127.0.0.1:9/v1, key: "key-of-outside", price: {input: 2, output: 8}}
    fallback: [small]
  busy:
    cold: {command: "no-such-program --port {port}", gpu_hour: 3.6, start_time: 10m}
    overflow: [small]
    budget: {usd_per_day: 5}
policies:
  chat:  # the first policy
    aliases: [talk]
    affinity: conversation
    first_match:
      - name: long
        when: {input_tokens: {above: 1000}}
        use: large
        max_wait: 10s
      - when: {keyword: [refund]}
        deny: ask the shop
      - name: team
        when: {header: {x-team: red, x-token: open-sesame}}
        use: [{model: small, weight: 3}, {model: outside, weight: 1}]
      - use: small
        priority: low
        retries: 0
        set: {temperature: 0.5, max_tokens: 10}
  night:
    mirror: {to: small, share: 0.25}
    first_match:
      - when: {time: {at: "Mon-Fri 22:00", for: 8h}, hot: large}
        use: large
      - use: outside
  careful:
    first_match:
      - use: {cascade: [small, large], accept: {right_answer: 0.01}}
"""
CONFIG = parse(TEXT, "gateway.yaml", {})
SATURDAY = datetime(2026, 11, 21, 9, 30, tzinfo=UTC).timestamp()
PROMPT = "kangaroos juggle marmalade"  # words that stand nowhere else


def router(states: dict[str, Stated] | None = None, at_s: float = SATURDAY) -> Router:
    return stated_router(CONFIG, {}, states or {}, at_s)


def chat(model: str, text: str = PROMPT, **more: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, **more}).encode()


def explained(
    body: bytes,
    states: dict[str, Stated] | None = None,
    *,
    at_s: float = SATURDAY,
    path: str | None = None,
    **headers: str,
) -> Explanation:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    request = question(body, headers_of(named), path)
    return asyncio.run(explain(router(states, at_s), request))


def as_json(found: Explanation) -> Any:
    return json.loads(msgspec.json.encode(found))
