"""How near a text is to the examples that a rule gives, by embedding.

The examples' vectors are kept; so is that of the last texts, which several rules may ask about.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from config.policy import Similar
from router.embedder import Busy, Embedder, embedder

if TYPE_CHECKING:
    from router.embedder import Vectors

KEPT = 500  # sets of vectors, each of 384 numbers a text
LONGEST = 2000  # characters of a text, its end: the embedder sees 256 tokens


class Examples:
    """`of` is asked for the embedder at each call: it may be missing."""

    def __init__(self, of: Callable[[], Embedder | None] = embedder) -> None:
        self._embedder = of
        self._vectors: OrderedDict[Hashable, Vectors] = OrderedDict()

    async def similarity(self, text: str, to: Similar) -> float | None:
        """Cosine to the nearest example; None without an embedder, or when it is too busy."""
        embeds = self._embedder()
        if embeds is None or not text.strip():
            return None
        try:
            examples = await self._of(embeds, to.examples)
            (vector,) = await self._of(embeds, (text[-LONGEST:],))
        except Busy:
            return None
        return float((examples @ vector).max())

    async def load(self, groups: Sequence[Similar]) -> None:
        """Have the vectors of examples before the first request asks for them."""
        embeds = self._embedder()
        if embeds is not None:
            for group in groups:
                await self._of(embeds, group.examples)

    async def _of(self, embeds: Embedder, texts: tuple[str, ...]) -> "Vectors":
        found = self._vectors.get(texts)
        if found is None:
            found = self._vectors[texts] = await embeds.embed(texts)
            if len(self._vectors) > KEPT:
                self._vectors.popitem(last=False)
        else:
            self._vectors.move_to_end(texts)
        return found
