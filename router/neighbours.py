"""What became of prompts like this one: the small model's and the large one's right answers.

Labelled prompts as vectors, in a file, and an estimate for a new prompt from the nearest of them,
before any model was asked. The file says which embedder made its vectors; another one's are not
comparable. Needs the extra `embeddings`; nothing else of the gateway imports this module at load.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from router.calibrate.files import write
from router.embedder import embedder

FORMAT = 1  # of the file
# A flat optimum on 300 to 14,000 prompts of MMLU: 100 to 200, 0.15 to 0.2 and 0.1 to 1 do as well.
NEAREST = 150
WARMTH = 0.2  # cosine by which a neighbour counts e times less; the same prompt counts 1
PRIOR = 0.3  # of such counts, at the base rate, in every estimate: what is far from all gets that
OUTCOMES = ("small_right", "large_right", "escalated")

_BLOCK = 256  # rows compared at once with all the others
_NOWHERE = -1e3  # as a cosine: counts nothing
_NUMBERS, _FLAGS = np.dtype("<f4"), np.dtype("u1")  # as they stand in the file
_LONGEST_HEAD = 1000  # bytes

Vector = NDArray[np.float32]


class Estimate(NamedTuple):
    """Probabilities, 0 to 1."""

    small_right: float
    large_right: float
    escalated: float


class Neighbours:
    """`outcomes` has a row for each vector, of 0 and 1 in the order of OUTCOMES."""

    def __init__(self, embedder: str, vectors: Vector, outcomes: Vector) -> None:
        self.embedder = embedder
        self._vectors = vectors
        self._outcomes = outcomes
        self._base = outcomes.mean(axis=0)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimensions(self) -> int:
        return int(self._vectors.shape[1])

    def nearest(self, vector: Vector, k: int = NEAREST) -> tuple[NDArray[np.intp], Vector]:
        """Rows of the k nearest prompts in no order, and the cosine to each."""
        return _nearest(self._vectors @ vector, k)

    def estimate(self, vector: Vector) -> Estimate:
        return self._estimate(self._vectors @ vector)

    def left_out(self) -> list[Estimate]:
        """For each prompt, in order, what the others say of it; for fits and measurements.

        What is left over when an outcome is taken out leans away from it, by 1/n; that is made
        good, or labels without any meaning in their prompts would seem to mean the opposite.
        """
        found: list[Estimate] = []
        leant = (self._outcomes - self._base) / len(self)
        for start in range(0, len(self), _BLOCK):
            near = self._vectors[start : start + _BLOCK] @ self._vectors.T
            near[np.arange(len(near)), np.arange(start, start + len(near))] = _NOWHERE
            shares = np.array([self._estimate(row) for row in near]) + leant[start : start + _BLOCK]
            found += [Estimate(*map(float, each)) for each in np.clip(shares, 0, 1)]
        return found

    def _estimate(self, near: Vector) -> Estimate:
        rows, near = _nearest(near, NEAREST)
        weights = np.exp((near - 1) / WARMTH)
        seen = weights @ self._outcomes[rows] + PRIOR * self._base
        return Estimate(*(float(p) for p in np.clip(seen / (weights.sum() + PRIOR), 0, 1)))

    def save(self, path: Path) -> None:
        """Write the file whole, or leave the one that was there."""
        head = _Head(FORMAT, self.embedder, *self._vectors.shape)
        write(
            path,
            msgspec.json.encode(head) + b"\n",
            self._vectors.astype(_NUMBERS).tobytes(),
            self._outcomes.astype(_FLAGS).tobytes(),
        )

    @classmethod
    def load(cls, path: Path, embedder: str) -> Self:
        """Raises ValueError, in words, for a file that this embedder cannot use."""
        try:
            with path.open("rb") as file:
                line = file.readline(_LONGEST_HEAD)
                head = _head(path, embedder, line)
                body = file.read()
        except OSError as exc:
            raise ValueError(f"cannot read the neighbours {path}: {exc.strerror}") from exc
        cells = head.rows * head.dimensions
        if len(body) != cells * _NUMBERS.itemsize + head.rows * len(OUTCOMES):
            raise ValueError(f"{path}: a file of neighbours that is not whole")
        vectors = np.frombuffer(body, _NUMBERS, cells).reshape(head.rows, head.dimensions)
        outcomes = np.frombuffer(body, _FLAGS, offset=vectors.nbytes).reshape(head.rows, -1)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.einsum("ij,ij->i", vectors, vectors)
        if not ((abs(lengths - 1) < 0.01).all() and (outcomes <= 1).all()):
            raise ValueError(f"{path}: a file of neighbours whose numbers make no sense")
        return cls(embedder, vectors.astype(np.float32), outcomes.astype(np.float32))


class _Head(Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of the file; behind it the vectors, and a byte for each outcome."""

    neighbours: int  # the format
    embedder: str
    rows: Annotated[int, Meta(ge=1, le=2**31)]
    dimensions: Annotated[int, Meta(ge=1, le=2**16)]


def _head(path: Path, embedder: str, line: bytes) -> _Head:
    try:
        head = msgspec.json.decode(line, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ValueError(f"{path}: not a file of neighbours") from exc
    again = "write it anew with lamplighter calibrate"
    if head.neighbours != FORMAT:
        raise ValueError(
            f"{path}: neighbours of format {head.neighbours}, this program reads {FORMAT}; {again}"
        )
    if head.embedder != embedder:
        raise ValueError(
            f"{path}: made with the embedder {head.embedder}, this one is {embedder}; {again}"
        )
    return head


def _nearest(near: Vector, k: int) -> tuple[NDArray[np.intp], Vector]:
    k = min(k, len(near))
    rows = np.argpartition(near, -k)[-k:]
    return rows, near[rows]


async def build(
    prompts: Sequence[str],
    small_right: Sequence[bool],
    large_right: Sequence[bool],
    escalated: Sequence[bool],
) -> Neighbours:
    """Neighbours of labelled prompts. Raises ValueError without the extra or without prompts."""
    if (made_by := embedder()) is None:
        raise ValueError("neighbours need an embedder: pip install 'lamplighter[embeddings]'")
    if not prompts:
        raise ValueError("no labelled prompts")
    outcomes = np.array([small_right, large_right, escalated], dtype=np.float32).T
    return Neighbours(made_by.name, await made_by.embed(prompts), outcomes)
