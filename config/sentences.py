"""pydantic's errors in plain words, each at the place in the file where it can be mended."""

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.problems import Place, did_you_mean, dotted
from config.schema import part_at
from config.yaml_lines import Document, Path

_Limits = dict[str, Any]
_SENTENCES: dict[str, Callable[[_Limits], str]] = {
    "string_type": lambda _: "must be text; put quotes around it",
    "int_type": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "bool_type": lambda _: "must be true or false",
    "finite_number": lambda _: "must be a finite number",
    "greater_than": lambda ctx: f"must be more than {_number(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"must be at least {_number(ctx['ge'])}",
    "less_than": lambda ctx: f"must be less than {_number(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"must be at most {_number(ctx['le'])}",
    "string_too_short": lambda ctx: _at_least(ctx["min_length"], "characters"),
    "too_short": lambda ctx: _at_least(ctx["min_length"], "characters"),
    "too_long": lambda ctx: f"must have at most {ctx['max_length']} of them",
    "string_too_long": lambda ctx: f"must have at most {ctx['max_length']} characters",
    "model_type": lambda _: "must be a map of keys and values",
    "dict_type": lambda _: "must be a map of keys and values",
    "tuple_type": lambda _: "must be a list",
    "literal_error": lambda ctx: f"must be {ctx['expected'].replace(chr(39), '')}",
    "value_error": lambda ctx: str(ctx["error"]),
}


def report(document: Document, error: ValidationError) -> None:
    """Add what pydantic found to the document's problems, but for what is reported already."""
    for detail in error.errors(include_url=False, include_input=False):
        path = _known(document, detail["loc"])
        if any(path[: len(broken)] == broken for broken in document.broken):
            continue
        document.report(*_explain(document, path, detail))


def _known(document: Document, loc: tuple[str | int, ...]) -> Path:
    """`loc` without the parts that are pydantic's own, and without what is not in the file."""
    path: Path = ()
    for part in loc:
        if (*path, part) in document.values:
            path = (*path, part)
    return path


def _explain(document: Document, path: Path, detail: ErrorDetails) -> tuple[Place, str]:
    kind, loc = detail["type"], detail["loc"]
    here = document.values.get(path, Place(1, 1))
    if kind == "missing" and path == loc:
        return document.keys.get(path, here), f"key {dotted(path)!r} has no value"
    if kind == "missing":
        where = f" in {dotted(path)}" if path else ""
        return document.keys.get(path, here), f"key {str(loc[-1])!r} is missing{where}"
    if kind == "extra_forbidden":
        place = document.keys.get(path, here)
        return place, _unknown_key(path[:-1], str(path[-1]) if path else "", loc[:-1])
    make = _SENTENCES.get(kind)
    sentence = make(detail.get("ctx", {})) if make else "is not valid here"
    name = dotted(path) or "the file"
    if loc[-1:] == ("[key]",):
        here, name = document.keys.get(path, here), f"{name}, the name"
    return here, f"{name}: {sentence}"


def _unknown_key(parent: Path, key: str, loc: Path) -> str:
    """`loc` is the same place spelled out, where a list or a text stands for a map in the file."""
    part = part_at(parent) or part_at(loc)
    known = part.keys() if part else {}
    where = f" in {dotted(parent)}" if parent else ""
    hint = did_you_mean(key, known)
    if not hint and known:
        hint = f"; known keys are {', '.join(sorted(known))}"
    return f"unknown key {key!r}{where}{hint}"


def _number(limit: float) -> str:
    return f"{limit:.15g}"


def _at_least(count: int, noun: str) -> str:
    if count == 1:
        return "must not be empty"
    return f"must have at least {count} {noun}"
