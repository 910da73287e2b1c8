"""Tell when a started server can answer: its port, its list of models, a first token.

A `/health` that says yes is no proof: it has been seen to say so before the weights were loaded,
while the server slept, and after it had begun to answer nonsense. So it is never asked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2

from backends.launchers import Running
from backends.tasks import TaskSet

log = logging.getLogger("lamplighter.readiness")

# Between two looks: a twentieth of what the start has taken so far, within these bounds. So the
# waiting adds 5 % to a start at most, and a start of minutes is asked four times a second.
POLL_S = (0.025, 0.25)
POLL_SHARE = 0.05

CALL_TIMEOUT = httpx2.Timeout(5.0)
CANARY_TIMEOUT = httpx2.Timeout(5.0, read=60.0)  # a first token may wait for kernels to compile
SURE_AFTER = 10  # times in a row that a wrong answer is seen before it is believed

_WORD = "hi"
# The first that the server knows decides; embedding and reranking models refuse those before.
CANARIES: tuple[tuple[str, dict[str, object]], ...] = (
    ("chat/completions", {"messages": [{"role": "user", "content": _WORD}], "max_tokens": 1}),
    ("completions", {"prompt": _WORD, "max_tokens": 1}),
    ("embeddings", {"input": _WORD}),
    ("rerank", {"query": _WORD, "documents": [_WORD]}),
)
_NOT_OFFERED = frozenset({400, 404, 405, 422, 501})
_KEY_REFUSED = frozenset({401, 403})


class WrongModel(Exception):
    """The server is up and keeps giving an answer that waiting will not change."""


class _NotYet(Exception):
    """What was seen instead; `final` when it will stay so unless the server is still loading."""

    def __init__(self, seen: str, *, final: bool = False) -> None:
        super().__init__(seen)
        self.final = final


async def wait_until_ready(
    running: Running,
    served_as: str,
    on_stage: Callable[[str], None],
    *,
    models_path: str = "/models",
    canary: bool = True,
) -> None:
    """Return when a request would be answered; `on_stage("warming")` once the model is listed.

    Never times out: whoever waits cancels. Raises WrongModel only, never for a refusal.
    """
    headers = {"authorization": f"Bearer {running.key}"} if running.key else {}
    polls = _Polls(running.url)
    await polls.until(lambda: _port_is_open(running.url))
    async with httpx2.AsyncClient(
        headers=headers,
        timeout=CALL_TIMEOUT,
        trust_env=False,  # no proxy from the environment stands before our own servers
        verify=running.url.startswith("https:"),  # reading the CA file takes 40 ms
        limits=httpx2.Limits(max_connections=1),
    ) as client:
        await polls.until(lambda: _lists(client, running.url + models_path, served_as))
        on_stage("warming")
        await polls.until(lambda: _is_awake(client, running.url))
        if canary:
            await polls.until(lambda: _answers(client, running.url, served_as))


async def ready_or_exited(
    running: Running,
    served_as: str,
    on_stage: Callable[[str], None],
    *,
    models_path: str = "/models",
    canary: bool = True,
) -> int | None:
    """None once it is ready; its exit code if it ended before that. Raises WrongModel."""
    tasks = TaskSet()
    ready = wait_until_ready(running, served_as, on_stage, models_path=models_path, canary=canary)
    probing = tasks.task(ready, f"probe {running.url}")
    exiting: asyncio.Task[int] = tasks.task(running.wait(), f"watch {running.url}")
    try:
        await asyncio.wait({probing, exiting}, return_when=asyncio.FIRST_COMPLETED)
        if exiting.done():
            return exiting.result()
        probing.result()
        return None
    finally:
        await tasks.close()


class _Polls:
    """Looks again and again, and says in the log when it sees something new."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._since_s = self._loop.time()

    async def until(self, look: Callable[[], Awaitable[None]]) -> None:
        before, times = "", 0
        while True:
            try:
                return await look()
            except _NotYet as not_yet:
                what, final = str(not_yet), not_yet.final
            times = times + 1 if what == before else 1
            before = what
            if times == 1:
                log.debug("%s is not ready: %s", self._url, what)
            if final and times >= SURE_AFTER:
                raise WrongModel(what)
            shortest_s, longest_s = POLL_S
            taken_s = self._loop.time() - self._since_s
            await asyncio.sleep(min(max(taken_s * POLL_SHARE, shortest_s), longest_s))


async def _port_is_open(url: str) -> None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(5.0):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError) as error:
        raise _NotYet(f"its port {port} is not open") from error
    writer.close()


async def _lists(client: httpx2.AsyncClient, url: str, served_as: str) -> None:
    path = urlsplit(url).path
    answer = await _call(client.get(url))
    _refuse_bad_key(answer, path)
    names = _names(answer) if answer.status_code == 200 else None
    if names is None:
        raise _NotYet(f"GET {path} answered {answer.status_code} and no list of models")
    if served_as not in names:
        listed = ", ".join(sorted(names)[:5]) or "no model"
        raise _NotYet(f"it serves {listed} but not {served_as}", final=bool(names))


def _names(answer: httpx2.Response) -> set[str] | None:
    """The models of an OpenAI list, llama.cpp's aliases included; None when it is none."""
    try:
        entries: Any = answer.json()["data"]
        return {
            str(name) for entry in entries for name in (entry["id"], *(entry.get("aliases") or ()))
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


async def _is_awake(client: httpx2.AsyncClient, url: str) -> None:
    """A sleeping vLLM lists its models too. Servers that cannot sleep do not know the path."""
    answer = await _call(client.get(httpx2.URL(url).join("/is_sleeping")))
    try:
        sleeping = answer.status_code == 200 and answer.json()["is_sleeping"] is True
    except (ValueError, LookupError, TypeError):
        return
    if sleeping:
        raise _NotYet("it is asleep")


async def _answers(client: httpx2.AsyncClient, url: str, served_as: str) -> None:
    for path, body in CANARIES:
        request = {"model": served_as, **body}
        answer = await _call(client.post(f"{url}/{path}", json=request, timeout=CANARY_TIMEOUT))
        if answer.status_code == 200:
            return
        _refuse_bad_key(answer, path)
        if answer.status_code not in _NOT_OFFERED:
            raise _NotYet(f"{path} answered {answer.status_code}")
    tried = ", ".join(path for path, _ in CANARIES)
    hint = "for a server of another kind set ready: {canary: false}"
    raise _NotYet(f"it refuses a first request to each of {tried}; {hint}", final=True)


def _refuse_bad_key(answer: httpx2.Response, path: str) -> None:
    if answer.status_code in _KEY_REFUSED:
        hint = "if it asks for a key, give it ours as {key} in command or env"
        raise _NotYet(f"{path} answered {answer.status_code}; {hint}", final=True)


async def _call(call: Awaitable[httpx2.Response]) -> httpx2.Response:
    try:
        return await call
    except httpx2.HTTPError as error:
        raise _NotYet(f"no answer yet ({type(error).__name__})") from error
