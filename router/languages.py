"""Which language a text is in, by py3langid from the extra `language`; in a thread of its own.

A model of 140 languages that knows what letters follow each other: 0.1 ms for a sentence, 0.7 s to
load. It is loaded by the first text, or by `load`, before there is one.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from config.extras import installed
from config.rule_values import LANGUAGES

LONGEST = 2000  # characters of a text that are looked at; more would tell nothing new
LEAST_SURE = 0.25  # the probability below which nothing is said: one word, code, numbers
WAITING = 64  # texts at once; the last of them would wait longer than a request should


class Languages:
    """`language` is asked on the event loop and told by the thread."""

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._load = cache(load or _identifier)
        self._waiting = 0

    async def language(self, text: str) -> str | None:
        """ISO 639-1; None when it is not clear, when too many wait, or without the extra."""
        if not available() or self._waiting >= WAITING or not text.strip():
            return None
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._told, text[-LONGEST:])
        finally:
            self._waiting -= 1

    def load(self) -> None:
        """Takes most of a second; to be called in a thread."""
        if available():
            self._load()

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "language")

    def _told(self, text: str) -> str | None:
        language, sure = self._load().classify(text.encode("utf-8", "replace"))
        return str(language) if sure >= LEAST_SURE else None


@cache
def available() -> bool:
    return installed("language")


def _identifier() -> Any:
    langid = import_module("py3langid.langid")
    made = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    made.set_languages(sorted(LANGUAGES & set(made.nb_classes)))
    return made
