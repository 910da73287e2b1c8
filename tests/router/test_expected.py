"""What is asked of an answer, as the request says it."""

import json
from typing import Any

import pytest

from router.body import parse_json
from router.expected import expected


def of(**fields: Any) -> Any:
    return expected(parse_json(json.dumps({"model": "m", **fields}).encode()))


def schema(body: Any) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": body}}
    return of(response_format=form).schema


def test_plain_request_asks_for_nothing() -> None:
    assert of() == of(response_format={"type": "text"}, tools=[])
    assert not of().json


def test_schema_is_checked() -> None:
    check = schema({"type": "object", "required": ["a"], "properties": {"a": {"enum": [1, 2]}}})
    assert check({"a": 1})
    assert not check({"a": 3})
    assert not check([])


def test_references_within_the_schema_are_followed() -> None:
    check = schema(
        {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    )
    assert check({"a": 1})
    assert not check({"a": "1"})


def test_schema_that_points_elsewhere_or_at_itself_is_not_checked() -> None:
    assert schema({"$ref": "http://127.0.0.1:9/schema.json"}) is None
    assert schema({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}) is None


def test_schema_that_doubles_with_each_line_is_not_checked() -> None:
    twice = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    assert schema({"$defs": {**twice, "d30": {}}, "$ref": "#/$defs/d0"}) is None


def test_pattern_that_would_take_for_ever_is_linear() -> None:
    check = schema({"type": "string", "pattern": "^(a+)+$"})
    assert not check("a" * 5000 + "b")


@pytest.mark.parametrize("form", [1, [], "json", {"type": 1}, {"type": "json_schema"}, None])
def test_what_cannot_be_read_is_not_asked_for(form: Any) -> None:
    assert of(response_format=form).schema is None


def test_arguments_of_tools_are_checked() -> None:
    weather = {"name": "weather", "parameters": {"required": ["city"]}}
    tools = of(tools=[{"type": "function", "function": weather}, {"type": "other"}]).tools
    assert set(tools) == {"weather"}
    assert tools["weather"]({"city": "Ulm"})
    assert not tools["weather"]({})


@pytest.mark.parametrize(
    "body",
    [
        {"allOf": [{"$ref": "#/allOf/0"}]},
        {"$defs": {"a": {"allOf": [{"$ref": "#/%24defs/a"}]}}, "$ref": "#/$defs/a"},
        {"$id": "http://x/r", "allOf": [{"$ref": "http://x/r"}]},
        {"$defs": {"a": {"$id": "a", "$defs": {"b": {}}, "$ref": "#/$defs/b"}}},
        {
            "$schema": "https://json-schema.org/draft/2019-09/schema",
            "allOf": [{"$recursiveRef": "#"}],
        },
        {"$defs": {"a": {"$ref": "#" + "/x" * 28_000}}, "allOf": [{"$ref": "#/$defs/a"}]},
        {"allOf": [{"pattern": r"(\pL{10}){20}"}]},
        {"allOf": [{"pattern": f"a{n}"} for n in range(1000)]},
        {"patternProperties": {f"a{n}": {} for n in range(1000)}},
    ],
)
def test_schema_whose_cost_cannot_be_told_is_not_checked(body: Any) -> None:
    assert schema(body) is None


@pytest.mark.parametrize("step", ["#/%24defs/d{}", "#/$defs/d{}"])
def test_references_that_double_are_counted_however_they_are_spelled(step: str) -> None:
    twice = {f"d{n}": {"allOf": [{"$ref": step.format(n + 1)}] * 2} for n in range(25)}
    assert schema({"$defs": {**twice, "d25": {}}, "$ref": step.format(0)}) is None


def test_reference_into_a_list_is_followed() -> None:
    check = schema({"anyOf": [{"type": "integer"}], "properties": {"a": {"$ref": "#/anyOf/0"}}})
    assert check(1)
    assert not check("1")


def test_schemas_of_a_request_are_bounded_together() -> None:
    wide = {"properties": {f"p{n}": {"type": "string"} for n in range(300)}}
    named = [
        {"type": "function", "function": {"name": f"f{n}", "parameters": wide}} for n in range(50)
    ]
    tools = of(tools=named).tools
    assert not tools["f0"]({"p0": 1})
    assert tools["f49"]({"p0": 1})  # known by its name, its arguments are not looked at


def test_schema_that_cannot_be_checked_leaves_the_others_be() -> None:
    tree = {"$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}
    named = {"tree": tree, "weather": {"required": ["city"]}}
    functions = [{"name": name, "parameters": schema} for name, schema in named.items()]
    tools = of(tools=[{"type": "function", "function": each} for each in functions]).tools
    assert tools["tree"]([])
    assert not tools["weather"]({})


def test_answer_that_would_take_long_to_check_counts_as_valid() -> None:
    check = schema({"items": {"allOf": [{"minimum": n} for n in range(900)]}})
    assert not check([0] * 100)
    assert check([0] * 300_000)
