"""The log ring: any bytes in, lines that are safe to show out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.log_ring import CUT_MARK, MASK, LogRing

KEY = "sk-0123456789abcdef"


def shown(*output: bytes, **limits: int) -> list[str]:
    ring = LogRing(**limits)
    for piece in output:
        ring.append(piece)
    return ring.tail(1000)


def test_torn_lines_are_joined_and_the_last_one_shows_while_it_is_written() -> None:
    assert shown(b"loa", b"ding\nmod", b"el") == ["loading", "model"]


def test_a_character_torn_between_two_reads_is_whole() -> None:
    euro = "€".encode()
    assert shown(b"5 " + euro[:1], euro[1:] + b"\n") == ["5 €"]


def test_invalid_utf8_is_replaced() -> None:
    assert shown(b"a\xff\xfeb\n") == ["a��b"]


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (b"10%\r50%\r100%\n", "100%"),
        (b"10%\r50%\r", "50%"),
        (b"windows\r\n", "windows"),
        (b"a\r\r\nb\n", "a"),
        (b"\rfresh\n", "fresh"),
    ],
)
def test_a_progress_bar_is_its_last_state(output: bytes, line: str) -> None:
    assert shown(output)[0] == line


def test_a_progress_bar_without_end_stays_small() -> None:
    ring = LogRing(max_line_bytes=100)
    for percent in range(10_000):
        ring.append(b"\r%d/10000 of a long bar" % percent)
    assert ring.tail(5) == ["9999/10000 of a long bar"]


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;new title\x07text", "text"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bP+q544e\x1b\\dcs", "dcs"),
        (b"\x1b(Bcharset \x1b7saved", "charset saved"),
        (b"\x1b[2J\x1b[1;1Hwiped", "wiped"),
        (b"bell\x07 back\x08 nul\x00 del\x7f", "bell back nul del"),
        ("c1 \x9b31m".encode(), "c1 31m"),
        ("\u202eright to left\u2028x".encode(), "right to leftx"),
        (b"end\x1b", "end"),
        (b"tab\there", "tab here"),
    ],
)
def test_nothing_reaches_a_terminal_but_text(output: bytes, line: str) -> None:
    assert shown(output + b"\n") == [line]


def test_a_long_line_is_cut_with_a_mark_and_the_next_is_whole() -> None:
    lines = shown(b"x" * 70, b"x" * 70 + b"\nnext\n", max_line_bytes=100)
    assert lines == ["x" * 100 + CUT_MARK, "next"]


def test_the_last_lines_are_kept_within_both_limits() -> None:
    output = b"".join(b"%d\n" % n for n in range(5000))
    assert shown(output, max_lines=3) == ["4997", "4998", "4999"]
    assert shown(output, max_bytes=10) == ["4998", "4999"]


def test_of_a_flood_in_one_read_the_last_lines_are_kept() -> None:
    assert shown(b"begun", b" first\n2\n3\n4\nopen", max_lines=2) == ["3", "4", "open"]


def test_tail_gives_the_last_lines_in_order() -> None:
    ring = LogRing()
    ring.append(b"a\nb\nc\n")
    assert ring.tail(2) == ["b", "c"]
    assert ring.tail(0) == []
    assert ring.tail(-1) == []


def test_a_secret_is_masked_even_in_colour_and_in_lines_of_the_past() -> None:
    ring = LogRing()
    ring.append(f"key {KEY}!\n".encode())
    ring.append(b"key " + KEY[:6].encode() + b"\x1b[1m" + KEY[6:].encode() + b"\n")
    ring.hide(KEY)
    assert ring.tail(2) == [f"key {MASK}!", f"key {MASK}"]


@pytest.mark.parametrize("kept", range(5, len(KEY)))
def test_the_first_part_of_a_secret_is_masked_where_a_line_is_torn_or_cut(kept: int) -> None:
    ring = LogRing(max_line_bytes=4 + kept)
    ring.hide(KEY)
    ring.append(f"key {KEY}\n".encode())
    assert ring.tail(1) == ["key " + MASK + CUT_MARK]
    torn = LogRing()
    torn.hide(KEY)
    torn.append(f"key {KEY[:kept]}".encode())
    assert torn.tail(1) == ["key " + MASK]


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\x1b[1m", b"ab", b"\xe2\x82", b"\xac", b"0" * 9])))
def test_however_the_output_is_torn_the_lines_are_the_same(pieces: list[bytes]) -> None:
    whole = shown(b"".join(pieces), max_line_bytes=12, max_lines=3)
    assert shown(*pieces, max_line_bytes=12, max_lines=3) == whole


@given(st.lists(st.binary(max_size=50)))
def test_any_bytes_give_bounded_printable_lines(pieces: list[bytes]) -> None:
    lines = shown(*pieces, max_lines=5, max_line_bytes=20)
    assert len(lines) <= 6
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for line in lines for c in line)
