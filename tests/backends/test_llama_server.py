"""`python -m backends.llama_server` as the launcher sees it: a process with a port and a log."""

import http.client
import json
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engines.fixtures import ModelServer, free_port, stop, wait_until_served
from tests.engines.require import need

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "backends.llama_server")
CAPITAL = {
    "model": "smollm2",
    "temperature": 0,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}


def run(*arguments: str, python: str = sys.executable) -> "subprocess.CompletedProcess[str]":
    command = [python, "-m", "backends.llama_server", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)


@contextmanager
def serving(
    tmp_path: Path, model: Path, key: str | None = None
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "--model", str(model), "--port", str(port)],
            env={"LLAMA_API_KEY": key} if key else {},
            stderr=output,
        )
    try:
        wait_until_served(process, port, log, key=key)
        yield process, port
    finally:
        stop(process)


def port_of(server: ModelServer) -> int:
    return int(server.url.removesuffix("/v1").rsplit(":", 1)[1])


def ask(
    port: int, target: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", target, payload, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_models_lists_the_alias(llama_server: ModelServer) -> None:
    status, models = ask(port_of(llama_server), "/v1/models")
    assert status == 200
    assert [model["id"] for model in models["data"]] == ["smollm2"]


def test_chat_answers_a_question(llama_server: ModelServer) -> None:
    status, answer = ask(port_of(llama_server), "/v1/chat/completions", CAPITAL)
    assert status == 200
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_embeddings_come_from_the_same_server(llama_server: ModelServer) -> None:
    body = {"model": "smollm2", "input": ["one", "two"]}
    status, answer = ask(port_of(llama_server), "/v1/embeddings", body)
    assert status == 200
    assert [len(item["embedding"]) for item in answer["data"]] == [576, 576]


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/completions", {"prompt": "The capital of France is", "max_tokens": 4}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 4}),
        ("/v1/messages", {"messages": CAPITAL["messages"], "max_tokens": 4}),
        ("/v1/messages/count_tokens", {"messages": CAPITAL["messages"]}),
        ("/tokenize", {"content": "Hello there"}),
    ],
)
def test_endpoint_is_served(llama_server: ModelServer, target: str, body: dict[str, Any]) -> None:
    status, _ = ask(port_of(llama_server), target, {"model": "smollm2", **body})
    assert status == 200


def test_no_web_page_of_another_origin_may_read_an_answer(llama_server: ModelServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(llama_server), timeout=30)
    connection.request("GET", "/v1/models", headers={"Origin": "http://elsewhere.example"})
    answer = connection.getresponse()
    assert not answer.getheader("Access-Control-Allow-Origin")
    answer.read()
    connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_code_0_in_the_middle_of_a_stream(
    tmp_path: Path, smollm2_gguf: Path, number: signal.Signals
) -> None:
    need("llama")
    with serving(tmp_path, smollm2_gguf) as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = {**CAPITAL, "stream": True, "max_tokens": 2000, "ignore_eos": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        process.send_signal(number)
        assert process.wait(5) == 0
        answer.close()
        connection.close()


def test_key_from_the_environment_is_asked_for(tmp_path: Path, smollm2_gguf: Path) -> None:
    need("llama")
    with serving(tmp_path, smollm2_gguf, key="s3cret") as (_, port):
        body = {**CAPITAL, "max_tokens": 1}
        assert ask(port, "/v1/chat/completions", body)[0] == 401
        key = {"Authorization": "Bearer s3cret"}
        assert ask(port, "/v1/chat/completions", body, key)[0] == 200


def test_taken_port_is_exit_1_with_the_engines_own_words(
    llama_server: ModelServer, smollm2_gguf: Path
) -> None:
    outcome = run("--model", str(smollm2_gguf), "--port", str(port_of(llama_server)))
    assert outcome.returncode == 1
    assert "couldn't bind" in outcome.stderr
    assert "llama.cpp did not start (its log is above)" in outcome.stderr


def test_missing_model_is_exit_2(tmp_path: Path) -> None:
    outcome = run("--model", str(tmp_path / "none.gguf"), "--port", "1")
    assert outcome.returncode == 2
    expected = f"cannot read the model {tmp_path}/none.gguf: No such file or directory"
    assert outcome.stderr == f"llama_server: {expected}\n"


def test_file_that_is_not_gguf_is_exit_2(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"\x10\0\0\0{}")
    outcome = run("--model", str(model), "--port", "1")
    assert outcome.returncode == 2
    assert "is not a GGUF file" in outcome.stderr


def test_template_that_is_neither_chatml_nor_a_file_is_exit_2(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    outcome = run("--model", str(model), "--port", "1", "--template", "gemma")
    assert outcome.returncode == 2
    assert "--template gemma: neither chatml nor a file" in outcome.stderr


def test_gguf_cut_short_is_exit_1(tmp_path: Path) -> None:
    need("llama")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF\x03\0\0\0")
    assert run("--model", str(model), "--port", str(free_port())).returncode == 1


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    python = str(tmp_path / "bare" / "bin" / "python")
    outcome = run("--model", str(model), "--port", "1", python=python)
    assert outcome.returncode == 2
    assert "pip install 'lamplighter[demo]'" in outcome.stderr


@pytest.mark.parametrize("flag", ["--parallel", "--context", "--threads"])
def test_count_below_one_is_refused(flag: str) -> None:
    outcome = run("--model", "x", "--port", "1", flag, "0")
    assert outcome.returncode == 2
    assert "must be at least 1, not 0" in outcome.stderr
