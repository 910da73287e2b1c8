"""docs/configuration.md and examples/ say what the schema says."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.json_schema import json_schema
from config.load import load, parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
SCHEMA = json_schema()


def keys(
    schema: Any, path: str = "", within: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of the file with what the schema says of it; conditions in conditions once."""
    for option in schema.get("anyOf", ()):
        yield from keys(option, path, within)
    part = schema.get("$ref", "").rpartition("/")[2]
    if part and part not in within:
        yield from keys(SCHEMA["$defs"][part], path, (*within, part))
    for name, value in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, value
        yield from keys(value, here, within)
    if isinstance(rest := schema.get("additionalProperties"), dict):
        yield from keys(rest, f"{path}.NAME", within)
    if "items" in schema:
        yield from keys(schema["items"], f"{path}[]", within)


KEYS = dict(keys(SCHEMA))
# Shown elsewhere on the page: under defaults, or in the long form of a key.
SHARED = re.compile(
    r"^models\.NAME\.(queue|timeouts|keepalive|placement)\."
    r"|^policies\.NAME\.first_match\[\]\.(use\[\]|when\.time)\."
)


def test_the_walk_finds_the_deep_keys() -> None:
    assert {"models.NAME.hot.urls[].weight", "models.NAME.cold.ready.canary"} <= set(KEYS)


@pytest.mark.parametrize("path", [path for path in KEYS if not SHARED.match(path)])
def test_every_key_is_on_the_page(path: str) -> None:
    assert f"`{path}`" in PAGE


@pytest.mark.parametrize(
    "path",
    [p for p in KEYS if KEYS[p].get("default") not in (None, "") and not SHARED.match(p)],
)
def test_every_default_is_on_the_page(path: str) -> None:
    if path.startswith("models.NAME.") and path.replace("models.NAME", "defaults") in KEYS:
        return  # shown under defaults
    default = KEYS[path]["default"]
    shown = (
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if default == 0
        else str(default)
    )
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{path}` "))
    assert f"| `{shown}` |" in line


def test_the_page_names_no_key_that_is_not_there() -> None:
    named = re.findall(r"^\| `([a-z][^`]*)` \|", PAGE, re.MULTILINE)
    assert set(named) <= set(KEYS)


def test_the_first_block_of_the_page_is_a_whole_file() -> None:
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    assert list(parse(block[1], "page", {}).models) == ["small"]


EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda p: p.name)
def test_an_example_parses_without_a_problem_and_is_linked(file: Path) -> None:
    env = {"OPENAI_API_KEY": "key-of-the-api", "ADMIN_KEY": "long-enough"}
    assert load(file, env).models
    assert f"(../examples/{file.name})" in PAGE


def test_the_examples_are_found() -> None:
    assert {"api", "llama", "vllm", "sleep", "shared_gpu", "policies"} <= {p.stem for p in EXAMPLES}


A_MODEL = "models:\n  model:\n"
AN_API = "    api: {url: http://h/v1}\n"


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_a_block_of_the_page_is_right_where_it_belongs(block: str) -> None:
    """A block is a whole file, keys of the top, or a part of a model."""
    env = {name: "long-enough-value" for name in re.findall(r"\$\{env\.(\w+)", block)}
    if re.match(r"(hot|cold|api):", block):
        text = f"version: 1\n{A_MODEL}{textwrap.indent(block, '    ')}"
    else:
        text = block if block.startswith("version") else f"version: 1\n{block}"
        text += "" if "models:" in block else A_MODEL + AN_API
    assert parse(text, "page", env).models
