"""The JSON Schema of the file, for editors that complete and check while one types."""

from typing import Any

from config.schema import Config

_FILLED = {"type": "string", "pattern": r"\$\{env\."}
_LIMITS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}
_OF_LISTS = {"minLength": "minItems", "maxLength": "maxItems"}
_STRICT = frozenset({"number", "integer", "boolean"})


def json_schema() -> dict[str, Any]:
    """Accepts `${env.NAME}` wherever a single value is wanted, and what stands for a whole map."""
    schema: dict[str, Any] = Config.model_json_schema(mode="validation")
    parts = schema["$defs"]
    url = {"type": "string", "pattern": r"^https?://|\$\{env\."}
    parts["Endpoint"] = {"anyOf": [url, parts["Endpoint"]]}
    duration = parts["Quantiles"]["properties"]["p50"]["anyOf"]
    parts["Quantiles"] = {"anyOf": [*duration, _FILLED, parts["Quantiles"]]}
    _short_forms(parts)
    for part in [schema, *parts.values()]:
        for body in (part, *part.get("anyOf", ())):
            properties = body.get("properties", {})
            body.pop("title", None)
            for name, value in properties.items():
                properties[name] = _open(value, name in body.get("required", ()))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Lamplighter configuration",
    }


def _short_forms(parts: dict[str, Any]) -> None:
    """What stands for a map, or for a list of one, in policies."""
    text = {"type": "string"}
    weighted = {"type": "array", "items": {"$ref": "#/$defs/Weighted"}, "minItems": 1}
    parts["Weighted"] = {"anyOf": [text, parts["Weighted"]]}
    parts["Use"] = {"anyOf": [text, weighted, parts["Use"]]}
    examples = {"type": "array", "items": text, "minItems": 1}
    parts["Similar"] = {"anyOf": [examples, parts["Similar"]]}
    for name in ("priority", "time"):
        many = parts["When"]["properties"][name]["anyOf"]
        many.append(many[0]["items"])


def _open(value: dict[str, Any], required: bool) -> dict[str, Any]:
    """A property that also takes null, which is as good as leaving it out, and variables."""
    notes: dict[str, Any] = {"description": value["description"]}
    # The default of a map is that of its keys, and "default: null" tells a reader nothing.
    if isinstance(value.get("default"), str | int | float):
        notes["default"] = value["default"]
    kind = {k: v for k, v in value.items() if k not in ("description", "default", "title")}
    options = kind.get("anyOf", [kind])
    options = [_inside(option) for option in options if option != {"type": "null"}]
    if any(_single(option) for option in options) and _FILLED not in options:
        options.append(_FILLED)
    return {**notes, "anyOf": options if required else [*options, {"type": "null"}]}


def _inside(kind: dict[str, Any]) -> dict[str, Any]:
    """The same for the values of a list or of a map."""
    # pydantic leaves the limits under its own names when a validator runs before them.
    names = {**_LIMITS, **(_OF_LISTS if kind.get("type") == "array" else {})}
    out = {names.get(key, key): value for key, value in kind.items()}
    for holder in ("items", "additionalProperties"):
        inner = out.get(holder)
        if isinstance(inner, dict) and "$ref" not in inner:
            # Digits are taken as text in a list of words and in an environment.
            text = inner.get("type") == "string" and "enum" not in inner
            kinds = ["string", "number", *(["null"] if holder == "additionalProperties" else [])]
            out[holder] = {"type": kinds} if text else inner
    return out


def _single(kind: dict[str, Any]) -> bool:
    """Whether a variable must be allowed beside it: a plain string accepts one already."""
    if kind.get("type") in _STRICT or "const" in kind or "enum" in kind:
        return True
    return kind.get("type") == "string" and bool(
        {"pattern", "maxLength", "minLength"} & kind.keys()
    )
