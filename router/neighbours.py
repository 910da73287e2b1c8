"""What became of prompts like this one: the small model's and the large one's right answers.

Labelled prompts as vectors, in a file, and an estimate for a new prompt from the nearest of them,
before any model was asked. The file says which embedder made its vectors; another one's are not
comparable. Needs the extra `embeddings`; nothing else of the gateway imports this module at load.
"""

import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from router.embedder import embedder

FORMAT = 1  # of the file
# Flat optimum on 300 to 11,000 prompts of MMLU: 100 to 300, 0.1 to 0.2 and 0.1 to 1 do as well.
NEAREST = 200
WARMTH = 0.15  # cosine by which a neighbour counts e times less; the same prompt counts 1
PRIOR = 0.3  # of such counts, at the base rate, in every estimate: what is far from all gets that
OUTCOMES = ("small_right", "large_right", "escalated")

_BLOCK = 256  # rows compared at once with all the others
_NOWHERE = -1e3  # as a cosine: counts nothing

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

    def nearest(self, vector: Vector, k: int = NEAREST) -> tuple[NDArray[np.intp], Vector]:
        """Rows of the k nearest prompts in no order, and the cosine to each."""
        return _nearest(self._vectors @ vector, k)

    def estimate(self, vector: Vector) -> Estimate:
        return self._estimate(self._vectors @ vector)

    def left_out(self) -> list[Estimate]:
        """For each prompt, in order, what the others say of it; for fits and measurements."""
        found: list[Estimate] = []
        for start in range(0, len(self), _BLOCK):
            near = self._vectors[start : start + _BLOCK] @ self._vectors.T
            near[np.arange(len(near)), np.arange(start, start + len(near))] = _NOWHERE
            found += [self._estimate(row) for row in near]
        return found

    def _estimate(self, near: Vector) -> Estimate:
        rows, near = _nearest(near, NEAREST)
        weights = np.exp((near - 1) / WARMTH)
        seen = weights @ self._outcomes[rows] + PRIOR * self._base
        return Estimate(*(float(p) for p in np.clip(seen / (weights.sum() + PRIOR), 0, 1)))

    def save(self, path: Path) -> None:
        """Write the file whole, or leave the one that was there."""
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            try:
                self._write(file)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    def _write(self, file: IO[bytes]) -> None:
        np.savez(
            file,
            format=np.int64(FORMAT),
            embedder=np.str_(self.embedder),
            vectors=self._vectors,
            outcomes=self._outcomes,
        )

    @classmethod
    def load(cls, path: Path, embedder: str) -> Self:
        """Raises ValueError, in words, for a file that this embedder cannot use."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                parts = {name: stored[name] for name in stored.files}
        except OSError as exc:
            raise ValueError(f"cannot read the neighbours {path}: {exc.strerror}") from exc
        except (EOFError, ValueError, TypeError, zipfile.BadZipFile) as exc:
            raise ValueError(f"{path}: not a file of neighbours") from exc
        return cls._checked(path, embedder, parts)

    @classmethod
    def _checked(cls, path: Path, embedder: str, parts: dict[str, NDArray[np.generic]]) -> Self:
        if parts.keys() != {"format", "embedder", "vectors", "outcomes"}:
            raise ValueError(f"{path}: not a file of neighbours (it holds {', '.join(parts)})")
        if parts["format"] != FORMAT:
            raise ValueError(
                f"{path}: neighbours of format {parts['format']}, this program reads {FORMAT};"
                " write it anew with lamplighter calibrate"
            )
        if (made_by := str(parts["embedder"])) != embedder:
            raise ValueError(
                f"{path}: made with the embedder {made_by}, this one is {embedder};"
                " write it anew with lamplighter calibrate"
            )
        vectors, outcomes = (parts[n].astype(np.float32) for n in ("vectors", "outcomes"))
        _check_shapes(path, vectors, outcomes)
        return cls(made_by, vectors, outcomes)


def _nearest(near: Vector, k: int) -> tuple[NDArray[np.intp], Vector]:
    k = min(k, len(near))
    rows = np.argpartition(near, -k)[-k:]
    return rows, near[rows]


def _check_shapes(path: Path, vectors: Vector, outcomes: Vector) -> None:
    sound = (
        vectors.ndim == 2
        and len(vectors) > 0
        and outcomes.shape == (len(vectors), len(OUTCOMES))
        and bool(np.isfinite(vectors).all())
        and bool(np.isin(outcomes, (0.0, 1.0)).all())
    )
    if not sound:
        raise ValueError(f"{path}: not a file of neighbours (its numbers make no sense)")


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
