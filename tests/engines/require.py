"""Skip a test whose outside part is missing, or fail it where that part was promised.

LAMPLIGHTER_REQUIRE="node vllm" turns the skips for those parts into failures; `.ci/run` sets it,
so that a green run there means that they ran.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from router.embedder import embedder

PROMISED = "LAMPLIGHTER_REQUIRE"
VLLM_VENV = "LAMPLIGHTER_TEST_VLLM"


def need(part: str) -> None:
    reason = MISSING[part]()
    if reason is None:
        return
    if part in os.environ.get(PROMISED, "").split():
        pytest.fail(f"{reason} ({PROMISED} promises {part})", pytrace=False)
    pytest.skip(reason)


def _no_node() -> str | None:
    absent = [command for command in ("node", "npm") if shutil.which(command) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def _no_program(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name) else f"not installed: {name}"


def _no_vllm() -> str | None:
    venv = os.environ.get(VLLM_VENV)
    if not venv:
        return f"{VLLM_VENV} is not set; make the environment with tests/engines/make_vllm_venv.sh"
    if not (Path(venv) / "bin" / "python").is_file():
        return f"{VLLM_VENV}={venv} is not a virtual environment"
    return None


def _no_llama() -> str | None:
    if importlib.util.find_spec("xllamacpp") is None:
        return "llama.cpp is not installed: pip install -e '.[demo]'"
    return None


def _no_embeddings() -> str | None:
    if embedder() is None:
        return "no embedder is installed: pip install -e '.[embeddings]'"
    return None


MISSING: dict[str, Callable[[], str | None]] = {
    "node": _no_node,
    "openssl": _no_program("openssl"),
    "wrk": _no_program("wrk"),
    "vllm": _no_vllm,
    "llama": _no_llama,
    "embeddings": _no_embeddings,
}
