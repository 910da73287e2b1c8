from collections.abc import Mapping

import pytest

from config.problems import Place
from config.yaml_lines import read


def problems(text: str, env: Mapping[str, str] | None = None) -> list[str]:
    return [str(problem) for problem in read(text, "f.yaml", env or {}).problems]


def test_places_of_keys_and_values_are_counted_from_one() -> None:
    document = read("a:\n  - b: 1\n    cé: [x, y]\n", "f", {})
    assert document.value == {"a": [{"b": 1, "cé": ["x", "y"]}]}
    assert document.keys["a",] == Place(1, 1)
    assert document.values["a", 0] == Place(2, 5)
    assert document.values["a", 0, "b"] == Place(2, 8)
    assert document.keys["a", 0, "cé"] == Place(3, 5)
    assert document.values["a", 0, "cé", 1] == Place(3, 13)


def test_quoted_and_block_scalars_are_text() -> None:
    text = "a: '1'\nb: \"true\"\nc: |\n  1\nd: !!str 1\ne: !!int '2'\n"
    assert read(text, "f", {}).value == {"a": "1", "b": "true", "c": "1\n", "d": "1", "e": 2}


def test_a_byte_order_mark_is_skipped() -> None:
    assert read("\ufeffa: 1", "f", {}).value == {"a": 1}


def test_anchors_and_merge_keys_are_filled_in() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2}\nc: {<<: *a, x: 3}\nd: {<<: [*b, *a]}\ne: *a\n"
    value = read(text, "f", {}).value
    assert isinstance(value, dict)
    assert value["c"] == {"x": 3, "y": 1}
    assert value["d"] == {"x": 1, "y": 2}
    assert value["e"] == value["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: the file is empty; begin with: version: 1"),
        ("# nothing\n", "1:1: the file is empty; begin with: version: 1"),
        ("a: 1\na: 2", "2:1: key 'a' is written twice; the first is on line 1"),
        ("m:\n  b: 1\n  b: 2", "3:3: key 'b' is written twice in m; the first is on line 2"),
        ("a: 1\n---\nb: 1", "2:1: a second document begins here; write one document in one file"),
        ("a: &x [*x]", "1:8: *x contains itself"),
        ("a: &x {b: {c: *x}}", "1:15: *x contains itself"),
        ("a: *x", "1:4: *x refers to nothing: no &x comes before it"),
        ("7: a", '1:1: a key must be text; put quotes around it: "7"'),
        ("true: a", '1:1: a key must be text; put quotes around it: "true"'),
        ("? [a]\n: 1", "1:3: a key must be text, not a list or a map"),
        ("${env.A}: 1", "1:1: environment variables are filled into values, not into keys"),
        ("a: !secret x", "1:4: the tag !secret is not supported; leave it out"),
        ("a: 1\n<<: 2", "2:5: << takes a map or a list of maps"),
        ("a: \x07", "1:4: the character U+0007 is not allowed in YAML"),
        ("a: 1\nb: \ud800", "2:4: the character U+D800 is not allowed in YAML"),
        (
            "a:\n  b: ${env.A}",
            "2:6: environment variable A is not set; set it, or give a default: ${env.A:-default}",
        ),
        (
            "a:\n\tb: 1",
            "2:1: not valid YAML: found character that cannot start any token; the line begins"
            " with a tab: indent with spaces",
        ),
        (
            "a: {b: ${env.A}}",
            "1:9: not valid YAML: did not find expected ',' or '}'; inside [...] and {...} put"
            ' quotes around "${env.NAME}"',
        ),
        (
            "a: b: c",
            "1:5: not valid YAML: mapping values are not allowed in this context; check the"
            " indentation, and put quotes around a text with a colon in it",
        ),
    ],
)
def test_a_mistake_is_reported_at_its_place(text: str, message: str) -> None:
    assert problems(text) == [f"f.yaml:{message}"]


def test_all_mistakes_of_keys_and_variables_are_reported_at_once() -> None:
    assert len(problems("a: ${env.A}\nb: ${env.B}\na: 1\n1: x\n")) == 4


def test_a_filled_plain_scalar_is_read_again_and_a_quoted_one_is_not() -> None:
    text = "a: ${env.P}\nb: '${env.P}'\nc: ${env.T}\nd: 80${env.P}\n"
    assert read(text, "f", {"P": "80", "T": "true"}).value == {
        "a": 80,
        "b": "80",
        "c": True,
        "d": 8080,
    }


def test_a_filled_value_cannot_add_structure() -> None:
    value = read("a: ${env.A}", "f", {"A": "x\nb: {c: 1}"}).value
    assert value == {"a": "x\nb: {c: 1}"}


def test_an_alias_bomb_ends_at_the_limit() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "more than 100000 values once aliases are expanded" in problems("\n".join(lines))[0]


def test_a_bomb_of_merge_keys_ends_at_the_limit() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    assert "more than 100000 values" in problems("\n".join(lines))[0]


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert "nested more than 40 levels deep" in problems(text)[0]


def test_deep_nesting_through_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000)]
    assert "nested more than 40 levels deep" in problems("\n".join(lines))[0]
    lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: *a{n - 1}}}" for n in range(1, 2000)]
    assert "nested more than 40 levels deep" in problems("\n".join(lines))[0]


def test_a_message_holds_no_control_character() -> None:
    (message,) = problems('m: {"a\\e[31m": 1, "a\\e[31m": 2}')
    assert "\x1b" not in message
