"""What an embedding costs, and the nearest of many prompts: CPU time of one core, and memory.

    python -m load_tests.embeddings

Needs the extra `embeddings` and psutil.
"""

import asyncio
import platform
import statistics
import time
from collections.abc import Callable

import psutil

from router.embedder import embedder

WORDS = (1, 10, 60, 120, 250, 20_000)
ROWS = (1_000, 10_000, 50_000)
TEXT = "the quick brown fox jumps over a lazy dog while nobody looks at them "


def cpu_ms(work: Callable[[], object], rounds: int) -> str:
    """Median and 90th percentile."""
    taken: list[float] = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        taken.append((time.process_time() - begun) * 1e3)
    return f"{statistics.median(taken):8.2f} {statistics.quantiles(taken, n=10)[-1]:8.2f}"


def memory_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


def main() -> None:
    made_by = embedder()
    if made_by is None:
        raise SystemExit("pip install 'lamplighter[embeddings]'")
    print(f"{made_by.name} on {platform.processor() or platform.machine()}")
    with asyncio.Runner() as loop:

        def embed(text: str) -> None:
            loop.run(made_by.embed([text]))

        before_mb, begun = memory_mb(), time.perf_counter()
        embed("first")
        took_s = time.perf_counter() - begun
        print(f"first text: {took_s:.2f} s, {memory_mb() - before_mb:.0f} MB")
        print("words          ms    90 %")
        for words in WORDS:
            text = " ".join((TEXT * (words // 14 + 1)).split()[:words])
            print(f"{words:6}   {cpu_ms(lambda text=text: embed(text), 40)}")
        print(f"after that: {memory_mb() - before_mb:.0f} MB")
    nearest()


def nearest() -> None:
    import numpy as np

    from router.neighbours import Neighbours

    rng = np.random.default_rng(0)
    print("prompts        ms    90 %        MB")
    for rows in ROWS:
        before_mb = memory_mb()
        vectors = rng.normal(size=(rows, 384)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        known = Neighbours("drawn", vectors, np.ones((rows, 3), dtype=np.float32))
        asked = vectors[0].copy()
        estimate = cpu_ms(lambda known=known, asked=asked: known.estimate(asked), 40)
        print(f"{rows:7}  {estimate} {memory_mb() - before_mb:9.0f}")


if __name__ == "__main__":
    main()
