"""The policies of a file as they stand in it: which line each rule is on, and the text itself."""

from typing import NamedTuple

from config.yaml_lines import Document, Path


class WrittenPolicy(NamedTuple):
    """`lines` are those of its rules; `text` is the policy, each line with its number."""

    lines: tuple[int, ...]
    text: tuple[tuple[int, str], ...]


def written_policies(document: Document, text: str) -> dict[str, WrittenPolicy]:
    """By name. The text is that of the file, before variables are filled in."""
    top = document.value
    policies = top.get("policies") if isinstance(top, dict) else None
    if not isinstance(policies, dict):
        return {}
    lines = text.splitlines()
    return {name: _written(document, name, policies[name], lines) for name in policies}


def _written(document: Document, name: str, body: object, lines: list[str]) -> WrittenPolicy:
    path: Path = ("policies", name)
    rules = body.get("first_match") if isinstance(body, dict) else None
    count = len(rules) if isinstance(rules, list) else 0
    places = [document.values[(*path, "first_match", n)] for n in range(count)]
    begin = document.keys[path]
    end = _end(lines, begin.line, begin.column)
    block = tuple((n, lines[n - 1]) for n in range(begin.line, end + 1))
    return WrittenPolicy(tuple(place.line for place in places), block)


def _end(lines: list[str], begin: int, column: int) -> int:
    """The last line that is indented more than the key on line `begin`."""
    end = begin
    for n in range(begin + 1, len(lines) + 1):
        stripped = lines[n - 1].lstrip(" ")
        if not stripped or stripped.startswith("#"):
            continue
        if len(lines[n - 1]) - len(stripped) < column:
            break
        end = n
    return end
