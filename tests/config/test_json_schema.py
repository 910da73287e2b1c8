import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.json_schema import json_schema
from config.yaml_lines import read

SCHEMA = json_schema()
ROOT = Path(__file__).parents[2]
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def accepts(schema: Any, value: Any) -> bool:
    """As much of JSON Schema as ours is written in."""
    if schema is True:
        return True
    if "$ref" in schema:
        return accepts(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], value)
    if "anyOf" in schema:
        return any(accepts(option, value) for option in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(
        isinstance(value, TYPES[kind]) and (isinstance(value, bool) <= (kind == "boolean"))
        for kind in kinds
    ):
        return False
    return all(_limits(schema, value)) and all(_inside(schema, value))


def _limits(schema: Any, value: Any) -> Iterator[bool]:
    if isinstance(value, str):
        yield re.search(schema.get("pattern", ""), value) is not None
        yield schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
    elif isinstance(value, int | float):
        yield schema.get("minimum", -(10**30)) <= value <= schema.get("maximum", 10**30)
        yield value > schema.get("exclusiveMinimum", -(10**30))
        yield value < schema.get("exclusiveMaximum", 10**30)


def _inside(schema: Any, value: Any) -> Iterator[bool]:
    if isinstance(value, list):
        yield schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9)
        yield all(accepts(schema.get("items", {}), item) for item in value)
    elif isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
        yield set(schema.get("required", ())) <= set(value)
        for name, item in value.items():
            inner = known.get(name, rest)
            yield inner is not False and accepts(inner, item)


def test_json_schema_is_json_and_knows_only_what_the_test_knows() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert not {"ge", "le", "gt", "lt", "oneOf", "allOf", "not", "title "} & set(keywords(SCHEMA))


def keywords(schema: Any) -> Iterator[str]:
    """The words of JSON Schema that are used; names of our own keys are not among them."""
    for word, value in schema.items():
        yield word
        named = word in ("properties", "$defs")
        for inner in value.values() if named else value if isinstance(value, list) else [value]:
            if isinstance(inner, dict) and word != "default":
                yield from keywords(inner)


def test_json_schema_describes_every_key() -> None:
    for part in [SCHEMA, *SCHEMA["$defs"].values()]:
        for body in (part, *part.get("anyOf", ())):
            for name, value in body.get("properties", {}).items():
                assert value["description"].endswith("."), name


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_json_schema_accepts_the_examples_before_variables_are_filled_in(file: Path) -> None:
    value = read(file.read_text().replace("${env.", "$${env."), file.name, {}).value
    assert accepts(SCHEMA, value)


def model(**keys: Any) -> dict[str, Any]:
    return {"version": 1, "models": {"a": {"api": {"url": "http://h/v1"}, **keys}}}


def cold(**keys: Any) -> dict[str, Any]:
    return model(cold={"command": "x {port}", **keys})


def policy(*rules: Any, **keys: Any) -> dict[str, Any]:
    return {**model(), "policies": {"p": {"first_match": list(rules), **keys}}}


WHENS: list[dict[str, Any]] = [
    {"model": "p", "tools": True, "image": None, "regex": "a+", "keyword": ["a", "b", 5]},
    {"priority": "low", "time": {"at": "8:30", "for": "1h"}, "header": {"x-a": "*", "x-b": [1]}},
    {"priority": ["low", "high"], "time": [{"at": "Mon 8:30", "for": 60, "tz": "UTC"}]},
    {"not": {"any_of": [{"input_tokens": {"above": 5, "exact": True}}, {"hot": ["a"]}]}},
    {"all_of": [{"budget_left": {"below": 0.1, "model": "a"}}, {"language": "de"}]},
    {"similar_to": ["a"], "output_tokens": {"at_least": 1, "at_most": "${env.M}"}},
    {"similar_to": {"examples": ["a"], "above": 0.5}},
]
USES: list[Any] = [
    "a",
    ["a", {"model": "b", "weight": 2}],
    {"model": "a"},
    {"split": ["a"]},
    {"cascade": ["a", "b"], "accept": {"max_wrong": 0.05, "samples": 3, "compare": "exact"}},
]


@pytest.mark.parametrize(
    "value",
    [
        model(),
        model(retries="${env.N}", stream_usage="${env.B}", max_wait="${env.D}"),
        model(timeouts={"idle": "never", "connect": 5, "total": None}, queue=None),
        model(queue={"bytes": "32MiB", "requests": "${env.N:-5}"}),
        {**model(), "server": {"port": "${env.PORT}", "max_body": "${env.BODY}"}},
        model(hot={"urls": ["http://h/v1", {"url": "http://i/v1", "weight": "${env.W}"}]}),
        model(cold={"command": "x {port}", "env": {"A": 1, "B": None, "C": "x"}, "idle": "never"}),
        model(cold={"command": ["x", 1, "{port}"], "gpu_hour": 1}),
        *(cold(idle=idle) for idle in ("clamped", "ski_rental", "90s", 90, "${env.I}")),
        *(cold(start_time=time) for time in ("20s", 20, "${env.T}", {"p50": "1s"}, None)),
        cold(sleep={"level_1": {"share": 0.1, "wake": "2s"}, "level_2": None}),
        *(cold(warm=[{"at": at, "for": "10h"}]) for at in ("Mon-Fri 08:30", "8:30", "${env.A}")),
        cold(warm=[{"at": "Sat, Sun 23:59", "for": "7d", "tz": "Europe/Berlin"}]),
        model(placement={"class": "batch", "pin": "api", "p99_wait": None, "rule": "${env.R}"}),
        model(overflow=["b"], budget={"usd_per_day": "${env.B}"}, priority="low", delay_hour=0),
        {**model(), "devices": {"gpu0": {"memory": "80GiB"}}, "store": {"path": "x.db"}},
        *(policy({"when": when, "use": "a"}) for when in WHENS),
        *(policy({"use": use}, affinity="header:x-a") for use in USES),
        policy({"deny": "no", "set": {"a": [1, None]}}, mirror={"to": "a", "share": 0.5}),
    ],
)
def test_json_schema_accepts_what_the_loader_accepts(value: Any) -> None:
    assert accepts(SCHEMA, value)


@pytest.mark.parametrize(
    "value",
    [
        {"version": 1},
        policy({"use": 5}),
        policy({"when": {"tool": True}, "use": "a"}),
        policy({"when": {"priority": "hi"}, "use": "a"}),
        policy({"when": {"header": {"a": []}}, "use": "a"}),
        policy({"use": {"cascade": ["a", "b", "c"]}}),
        policy({"use": {"cascade": ["a", "b"], "accept": {"max_wrong": 1}}}),
        policy({"use": "a"}, affinity="caller"),
        {**model(), "version": 2},
        model(idel=1),
        model(retries=11),
        model(retries="2"),
        model(stream_usage="yes"),
        model(timeouts={"connect": "never"}),
        model(max_wait="5 minutes"),
        model(hot={"urls": []}),
        model(hot={"urls": ["h"]}),
        model(hot={"urls": [{"url": "http://h/v1", "weight": 0}]}),
        *(cold(idle=idle) for idle in ("clampd", 0, True, "5 minutes")),
        *(cold(start_time=time) for time in ("soon", {"p90": "1s"}, ["1s"])),
        cold(sleep={"level_1": {"share": 2, "wake": "2s"}}),
        cold(sleep={"level_1": {"share": 0.1}}),
        *(cold(warm=[{"at": at, "for": "10h"}]) for at in ("24:00", "Mon", 8, "", None)),
        cold(warm=[{"at": "8:30"}]),
        cold(warm=[{"at": "8:30", "for_": "1h", "for": "1h"}]),
        model(placement={"class_": "batch"}),
        model(placement={"class": "slow"}),
        model(budget={"usd_per_day": 0}),
        {**model(), "devices": {"gpu0": {}}},
    ],
)
def test_json_schema_refuses_what_the_loader_refuses(value: Any) -> None:
    assert not accepts(SCHEMA, value)


def test_json_schema_shows_defaults_as_they_are_written() -> None:
    parts = SCHEMA["$defs"]
    assert parts["Server"]["properties"]["max_body"]["default"] == "32MiB"
    assert parts["Timeouts"]["properties"]["total"]["default"] == "never"
    assert parts["Model"]["properties"]["retries"]["default"] == 2
    assert parts["Cold"]["properties"]["idle"]["default"] == "clamped"
    assert parts["Cold"]["properties"]["start_time"]["default"] == "20s"
    assert parts["Placement"]["properties"]["class"]["default"] == "batch"
