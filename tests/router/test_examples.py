"""How near a text is to a rule's examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from config.policy import Similar
from router.embedder import Busy, embedder
from router.examples import Examples
from tests.engines.require import need


class Fixed:
    """Embeds a text as one of two directions, and counts what it was asked."""

    name = "fixed"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.busy = False

    async def embed(self, texts: Sequence[str]) -> Any:
        if self.busy:
            raise Busy
        self.asked += texts
        rows = [[1.0, 0.0] if "cat" in text else [0.0, 1.0] for text in texts]
        return np.array(rows, np.float32)

    def truncated(self, text: str) -> bool:
        return False


CATS = Similar(examples=("a cat", "the cat of a friend"))


@pytest.mark.anyio
async def test_nearest_example_counts_and_nothing_is_embedded_twice() -> None:
    fixed = Fixed()
    examples = Examples(lambda: fixed)
    assert await examples.similarity("my cat", CATS) == 1.0
    assert await examples.similarity("my dog", CATS) == 0.0
    both = Similar(examples=("a dog", "a cat"))
    assert await examples.similarity("my dog", both) == 1.0
    assert fixed.asked == ["a cat", "the cat of a friend", "my cat", "my dog", "a dog", "a cat"]


@pytest.mark.anyio
async def test_nobody_knows_without_an_embedder_or_a_text_or_time() -> None:
    fixed = Fixed()
    assert await Examples(lambda: None).similarity("my cat", CATS) is None
    assert await Examples(lambda: fixed).similarity("  ", CATS) is None
    fixed.busy = True
    assert await Examples(lambda: fixed).similarity("my cat", CATS) is None


@pytest.mark.anyio
async def test_meaning_counts_with_the_real_embedder() -> None:
    need("embeddings")
    examples = Examples(embedder)
    refunds = Similar(examples=("I want my money back", "How do I return this item?"))
    near = await examples.similarity("Please refund my order.", refunds)
    far = await examples.similarity("Write a poem about autumn leaves.", refunds)
    assert near is not None
    assert far is not None
    assert near > 0.5 > far
