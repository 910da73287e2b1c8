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
