"""The fake model server as a process for `cold.command`, with the ways in which a start goes wrong.

Runs as `python -m tests.fakes.model_server --port N` or by its path from any folder; stdlib only.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.model_server import ModelServer
from tests.fakes.sleeper import DEV_MODE, Fault, Sleeper
from tests.fakes.wire import End, Script, Step, answer, events


def fake_command(*options: str) -> list[str]:
    """For `cold.command`: starts in 0.1 s; `{port}` is left for the launcher."""
    return [sys.executable, "-IS", str(Path(__file__).resolve()), "--port", "{port}", *options]


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    for line in options.log:
        print(line, file=sys.stderr, flush=True)
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.with_child:
        child = subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", file=sys.stderr, flush=True)
    time.sleep(options.listen_after)
    if options.crash_at_load is not None:
        return int(options.crash_at_load)
    if options.never_listen:
        time.sleep(600)
        return 0
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(options))
    return 0


SCRIPT_HELP = """
{"queue": [SCRIPT...], "paths": {TARGET: SCRIPT}, "named": {NAME: SCRIPT}}; a SCRIPT is null (the
built-in answer), {"answer": OBJECT, "status": 200, "headers": {}}, {"events": [STEP...]} or
{"raw": [STEP...]}; a STEP is text to write, a number of seconds, or {"end": "reset"}
"""


def _load(server: ModelServer, file: Mapping[str, Any]) -> None:
    server.queue.extend(_script(item) for item in file.get("queue", []))
    server.paths.update((k, _script(v) or ()) for k, v in file.get("paths", {}).items())
    server.named.update((k, _script(v) or ()) for k, v in file.get("named", {}).items())


def _script(item: Mapping[str, Any] | None) -> Script | None:
    if item is None:
        return None
    headers = list(item.get("headers", {}).items())
    if "answer" in item:
        return answer(item["answer"], item.get("status", 200), headers)
    if "events" in item:
        return events(*map(_step, item["events"]), headers=headers, status=item.get("status", 200))
    return [_step(step) for step in item["raw"]]


def _step(item: str | float | Mapping[str, str]) -> Step:
    match item:
        case str():
            return item.encode()
        case int() | float():
            return float(item)
        case _:
            return End(item["end"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A model server for tests.")
    add = parser.add_argument
    add("--port", type=int, required=True)
    add("--host", default="127.0.0.1")
    add("--model", default="fake", help="name in /v1/models")
    add("--key", default=os.environ.get("FAKE_API_KEY"), help="bearer token to ask for")
    add("--pace", type=float, default=0.0, metavar="S", help="seconds before each token")
    add("--log", action="append", default=[], metavar="LINE", help="write to stderr at the start")
    add("--listen-after", type=float, default=0.0, metavar="S")
    add("--ready-after", type=float, default=0.0, metavar="S", help="503 until then")
    add("--never-listen", action="store_true")
    add("--never-ready", action="store_true", help="503 for ever")
    add("--crash-at-load", type=int, metavar="CODE", help="exit instead of listening")
    add("--crash-on", type=int, metavar="N", help="exit 3 instead of answering the N-th POST")
    add("--ignore-sigterm", action="store_true")
    add("--with-child", action="store_true", help="start a child that would live for 10 minutes")
    add("--sleep-mode", action="store_true", help="vLLM's routes, if it is in dev mode")
    add("--sleep-takes", type=float, default=0.0, metavar="S")
    add("--wake-takes", type=float, default=0.0, metavar="S")
    add("--sleep-early", action="store_true", help="answer before it is done")
    add("--sleep-fault", type=Fault, choices=list(Fault), metavar="FAULT")
    add("--script", type=Path, metavar="FILE.json", help=SCRIPT_HELP)
    return parser


async def _run(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    if not options.ignore_sigterm:
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = ModelServer(
        options.model, key=options.key, host=options.host, port=options.port, pace_s=options.pace
    )
    if options.sleep_mode and os.environ.get(DEV_MODE) == "1":
        server.sleeper = Sleeper(
            takes_s=options.sleep_takes,
            wake_takes_s=options.wake_takes,
            early=options.sleep_early,
            fault=options.sleep_fault,
        )
    if options.script:
        _load(server, json.loads(options.script.read_text()))
    if options.crash_on:
        server.queue.extend([*[None] * (options.crash_on - 1), [End.CRASH]])
    server.ready = not (options.never_ready or options.ready_after)
    async with server:
        if options.ready_after and not options.never_ready:
            loop.call_later(options.ready_after, setattr, server, "ready", True)
        await stopped.wait()


if __name__ == "__main__":
    sys.exit(main())
