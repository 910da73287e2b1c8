"""The real openai client for JavaScript, run by Node as a child process.

A conftest loads this with `pytest_plugins = ["tests.clients.fixtures"]`.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engines.require import need

SOURCE = Path(__file__).parent / "js"
FILES = ("package.json", "package-lock.json", ".npmrc", "stream.mjs")
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Heard:
    """What the client saw, in order."""

    lines: list[dict[str, Any]]

    @property
    def response(self) -> dict[str, Any] | None:
        return self._last("response")

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [line["chunk"] for line in self.lines if "chunk" in line]

    @property
    def error(self) -> dict[str, Any] | None:
        return self._last("error")

    @property
    def finish(self) -> str | None:
        return next((line["finish"] for line in self.lines if "finish" in line), None)

    @property
    def text(self) -> str | None:
        return next((line["text"] for line in self.lines if "finish" in line), None)

    def _last(self, kind: str) -> dict[str, Any] | None:
        return next((line[kind] for line in reversed(self.lines) if kind in line), None)


@dataclass(frozen=True)
class JsClient:
    folder: Path

    def command(
        self, base_url: str, model: str, prompt: str, options: Mapping[str, Any] | None = None
    ) -> list[str]:
        """For a test that has to watch the process while it runs."""
        script = str(self.folder / "stream.mjs")
        return ["node", script, base_url, model, prompt, json.dumps(options or {})]

    def stream(self, base_url: str, model: str, prompt: str, **options: Any) -> Heard:
        """Blocks: in an async test, `await asyncio.to_thread(js_client.stream, ...)`."""
        done = subprocess.run(
            self.command(base_url, model, prompt, options),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
        )
        if done.returncode != 0:
            pytest.fail(f"node exited with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
        return heard(done.stdout)


def heard(output: bytes) -> Heard:
    return Heard([json.loads(line) for line in output.splitlines()])


@pytest.fixture(scope="session")
def js_client() -> JsClient:
    """`npm ci` once per lock file, into the user's cache and never into the source tree."""
    need("node")
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((SOURCE / name).read_bytes())
    folder = _cache() / f"js-{digest.hexdigest()[:16]}"
    if not folder.is_dir():
        _install(folder)
    return JsClient(folder)


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lamplighter-tests"


def _install(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".js-", dir=folder.parent) as work:
        made = Path(work) / "made"
        made.mkdir()
        for name in FILES:
            shutil.copy(SOURCE / name, made / name)
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=made,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            pytest.fail(f"npm ci failed:\n{done.stderr[-2000:]}", pytrace=False)
        try:
            made.rename(folder)
        except OSError:  # another run was quicker
            if not folder.is_dir():
                raise
