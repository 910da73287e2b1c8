"""Languages of texts, told off the event loop."""

import asyncio
import threading
from typing import Any

import pytest

from router import languages
from router.languages import LANGUAGES, Languages


def told(*texts: str) -> list[str | None]:
    async def go() -> list[str | None]:
        found = Languages()
        found.load()
        return [await found.language(text) for text in texts]

    return asyncio.run(go())


def test_languages_are_told() -> None:
    assert told(
        "Please help me with my invoice",
        "Ich möchte mein Geld zurück",
        "Je voudrais un remboursement",
        "我要退款吗",
        "¿Dónde está mi pedido?",
    ) == ["en", "de", "fr", "zh", "es"]


@pytest.mark.parametrize("text", ["", "   ", "ok", "123 456", "x = y[0] + 1", "\0\0", "SELECT 1"])
def test_what_is_not_clear_is_not_told(text: str) -> None:
    assert told(text) == [None]


def test_only_codes_that_rules_may_name_are_told() -> None:
    found = told("\ud800 hello my friend, how are you", "Kan du hjelpe meg?", "Ολα καλα εδω")
    assert set(found) <= LANGUAGES


def test_a_model_at_work_does_not_hold_up_the_loop() -> None:
    class Slow:
        go_on = threading.Event()

        def classify(self, text: bytes) -> tuple[str, float]:
            assert threading.current_thread() is not threading.main_thread()
            self.go_on.wait()
            return "en", 1.0

    async def go() -> Any:
        slow = Slow()
        asking = asyncio.ensure_future(Languages(lambda: slow).language("hello"))
        await asyncio.sleep(0)
        slow.go_on.set()
        return await asking

    assert asyncio.run(go()) == "en"


def test_who_would_wait_too_long_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "WAITING", 0)
    assert told("Please help me with my invoice") == [None]


def test_without_the_extra_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "available", lambda: False)
    assert told("Please help me with my invoice") == [None]
