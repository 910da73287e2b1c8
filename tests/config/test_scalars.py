import math

import pytest

from config.scalars import FilledText, core, fill


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("on", "on"),
        ("No", "No"),
        ("y", "y"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("~", None),
        ("", None),
        ("null", None),
        ("2026-01-01", "2026-01-01"),
        ("<<", "<<"),
        ("=", "="),
        ("9" * 101, "9" * 101),
    ],
)
def test_core_follows_yaml_1_2(written: str, expected: object) -> None:
    value = core(written)
    assert value == expected
    assert isinstance(value, bool) == isinstance(expected, bool)


def test_core_reads_nan() -> None:
    value = core(".nan")
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${env.A}", "1"),
        ("x${env.A}y${env.B}", "x1ytwo"),
        ("${env.NONE:-three}", "three"),
        ("${env.NONE:-}", ""),
        ("${env.EMPTY:-four}", "four"),
        ("${env.EMPTY}", ""),
        ("$${env.A}", "${env.A}"),
        ("${A} $A ${other.A}", "${A} $A ${other.A}"),
        ("${env.LOOP}", "${env.A}"),
    ],
)
def test_fill_replaces_variables_once(text: str, expected: str) -> None:
    env = {"A": "1", "B": "two", "EMPTY": "", "LOOP": "${env.A}"}
    assert fill(text, env)[::2] == (expected, [])


def test_fill_names_a_variable_that_is_not_set() -> None:
    assert fill("${env.A}", {})[2] == [
        "environment variable A is not set; set it, or give a default: ${env.A:-default}"
    ]


@pytest.mark.parametrize("text", ["${env.}", "${env.1A}", "${env.A", "${env.A-x}", "${env.A B}"])
def test_fill_explains_what_it_cannot_read(text: str) -> None:
    assert fill(text, {"A": "1"})[2][0].startswith("cannot read this environment variable; write")


def test_filled_text_is_text() -> None:
    assert FilledText("a") == "a"
