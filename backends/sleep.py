"""vLLM's sleep mode over HTTP: put a started server to sleep, and wake it.

The routes stand at the server's root, beside the OpenAI API and not below it, and exist only with
VLLM_SERVER_DEV_MODE=1 in its environment. `/collective_rpc` among them runs any method of the
engine, so they must be the gateway's alone: the server listens on loopback, and callers reach
only what `proxy/inbound.py` lets through.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from backends.holding import Rung
from backends.launchers import Running

ENV: Mapping[str, str] = {"VLLM_SERVER_DEV_MODE": "1"}

LEVELS: Mapping[Rung, int] = {"sleep_1": 1, "sleep_2": 2}
# A level 2 sleep threw the weights away: they are read again between their memory and the cache's.
WAKE: Mapping[Rung, Sequence[tuple[str, Mapping[str, str] | None]]] = {
    "sleep_1": (("/wake_up", None),),
    "sleep_2": (
        ("/wake_up?tags=weights", None),
        ("/collective_rpc", {"method": "reload_weights"}),
        ("/wake_up?tags=kv_cache", None),
        ("/reset_prefix_cache", None),
    ),
}

POLL_S = 0.05  # between two looks at whether it sleeps
CONNECT_S = 5.0


class SleepFailed(Exception):
    """The server refused, or gave no proper answer; the message says to what."""


async def fall_asleep(running: Running, rung: Rung) -> None:
    """Return when the server says that it sleeps. Raises SleepFailed; never times out by itself.

    It must have nothing in flight: vLLM ends what it finds with an abort.
    """
    async with _client(running) as client:
        await _post(client, f"/sleep?level={LEVELS[rung]}")
        await _until(client, asleep=True)


async def wake_up(running: Running, rung: Rung) -> None:
    """Return when the server says that it is awake. Raises SleepFailed; never times out by itself.

    Whether it answers is another question: `readiness.py` asks it.
    """
    async with _client(running) as client:
        for path, body in WAKE[rung]:
            await _post(client, path, body)
        await _until(client, asleep=False)


@asynccontextmanager
async def _client(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=httpx2.URL(running.url).join("/"),
        headers={"authorization": f"Bearer {running.key}"} if running.key else {},
        timeout=httpx2.Timeout(None, connect=CONNECT_S),  # an answer comes when it is done
        trust_env=False,  # no proxy from the environment stands before our own servers
        verify=running.url.startswith("https:"),  # reading the CA file takes 40 ms
        limits=httpx2.Limits(max_connections=1),
    ) as client:
        yield client


async def _post(
    client: httpx2.AsyncClient, path: str, body: Mapping[str, str] | None = None
) -> None:
    await _call(client, "POST", path, body)


async def _until(client: httpx2.AsyncClient, *, asleep: bool) -> None:
    """Some layouts answer /sleep and /wake_up before the engine has done it."""
    while True:
        answer = await _call(client, "GET", "/is_sleeping")
        try:
            said: Any = answer.json()["is_sleeping"]
        except (ValueError, LookupError, TypeError):
            raise SleepFailed("/is_sleeping gave no answer that we know") from None
        if said is asleep:
            return
        await asyncio.sleep(POLL_S)


async def _call(
    client: httpx2.AsyncClient, method: str, path: str, body: Mapping[str, str] | None = None
) -> httpx2.Response:
    try:
        answer = await client.request(method, path, json=body)
    except httpx2.HTTPError as error:
        raise SleepFailed(f"{method} {path} got no answer ({type(error).__name__})") from error
    if answer.status_code != 200:
        raise SleepFailed(f"{method} {path} answered {answer.status_code}")
    return answer
