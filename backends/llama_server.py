"""llama.cpp's own OpenAI server from the `xllamacpp` wheel, as a command in the foreground.

`python -m backends.llama_server --model FILE.gguf --port N` serves until SIGTERM or SIGINT.
It is a program for the process launcher to start, like `vllm serve`: nothing in the gateway
imports it, and it knows nothing of the gateway. Imports are few because they are part of every
cold start.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

GGUF_MAGIC = b"GGUF"
KEY_VARIABLE = "LLAMA_API_KEY"
PROMPT_CACHE_MIB = 256  # llama.cpp's own default keeps up to 8 GiB of old prompts in memory


class CannotServe(Exception):
    """What the person who started the command has to change; exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        _check_model(options.model)
        options.template = _template(options.template)
        engine = _engine()
    except CannotServe as exc:
        return _complain(str(exc), 2)
    return _serve(engine, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backends.llama_server",
        description="Serve one GGUF model with llama.cpp's OpenAI server.",
    )
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--alias", help="name in /v1/models (default: the file's name)")
    parser.add_argument("--threads", type=_count, help="default: the cores this process may use")
    parser.add_argument(
        "--parallel", type=_count, default=4, help="requests at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--context", type=_count, default=2048, help="tokens per request (default: %(default)s)"
    )
    parser.add_argument(
        "--template",
        help="chat template: chatml, or a Jinja file (default: the one inside the model)",
    )
    parser.add_argument(
        "--embeddings",
        action="store_true",
        help="serve /v1/embeddings too, as the mean over the tokens",
    )
    parser.add_argument(
        "--key",
        default=os.environ.get(KEY_VARIABLE),
        help=f"bearer token to ask for; better in {KEY_VARIABLE}, where `ps` does not show it",
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _check_model(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as exc:
        raise CannotServe(f"cannot read the model {path}: {exc.strerror}") from exc
    if magic != GGUF_MAGIC:
        raise CannotServe(f"{path} is not a GGUF file (it begins with {magic!r})")


def _engine() -> ModuleType:
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as exc:
        raise CannotServe(
            f"llama.cpp is not installed here ({exc}); run: pip install 'lamplighter[demo]'"
        ) from exc


def _serve(engine: ModuleType, options: argparse.Namespace) -> int:
    """The engine loads under the GIL, so until it listens a SIGTERM has to kill in the plain way.

    Later it may be delivered to any of the engine's threads, where `sigwait` would miss it:
    hence the wake-up pipe.
    """
    try:
        server = engine.Server(_params(engine, options))
    except (RuntimeError, OSError) as exc:
        return _complain(f"llama.cpp did not start (its log is above): {exc}", 1)
    stopped, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _say(f"serving {options.model.name} at {server.listening_address}")
    os.read(stopped, 1)
    _say("stopped")
    os._exit(0)  # the engine's destructor waits for answers that are still being written


def _params(engine: ModuleType, options: argparse.Namespace) -> object:
    params = engine.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias or options.model.name}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.parallel
    params.n_ctx = options.context * options.parallel
    params.cpuparams.n_threads = options.threads or len(os.sched_getaffinity(0))
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.fit_params = False  # a trial load that sizes GPU layers: a third of the start on a CPU
    params.ui = False
    params.cors_origins = ""  # else any web page that this machine's browser shows may call it
    params.endpoint_slots = False  # would show one caller's settings to another
    if options.key:
        params.api_keys = [options.key]
    if options.template:
        params.chat_template = options.template
    if options.embeddings:
        params.embedding = True
        params.pooling_type = engine.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def _template(name_or_file: str | None) -> str | None:
    """Raises CannotServe for any other word: the engine would take it for every prompt's text."""
    if name_or_file is not None and Path(name_or_file).is_file():
        return Path(name_or_file).read_text(encoding="utf-8")
    if name_or_file not in (None, "chatml"):
        raise CannotServe(f"--template {name_or_file}: neither chatml nor a file")
    return name_or_file


def _complain(message: str, code: int) -> int:
    _say(message)
    return code


def _say(message: str) -> None:
    print(f"llama_server: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
