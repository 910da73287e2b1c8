"""What one YAML scalar means: the YAML 1.2 core schema, and `${env.NAME}` filled in.

The numbers remember how they were written, so that `key: 0123` and `env: {PORT: 010}` stay text
where text is wanted.
"""

import re
from collections.abc import Mapping

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False}
_BOOLEANS["FALSE"] = False
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)"
)
# int() refuses more than 4300 digits; nothing in a configuration needs more than a few.
_LONGEST_NUMBER = 100
_VARIABLE = re.compile(r"\$(\$)?\{env\.(?:([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\})?")


class WrittenInt(int):
    """An int that remembers its spelling."""

    text: str


class WrittenFloat(float):
    """A float that remembers its spelling."""

    text: str


class FilledText(str):
    """A string with an environment variable in it; messages must not quote it."""


def core(text: str) -> object:
    """A plain scalar by the YAML 1.2 core schema: `on`, `yes`, `1:30` and `1_000` are strings."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INT.fullmatch(text):
        whole = WrittenInt(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        whole.text = text
        return whole
    if _FLOAT.fullmatch(text):
        # YAML spells infinity with a dot in front, Python without.
        real = WrittenFloat(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        real.text = text
        return real
    return text


def fill(text: str, env: Mapping[str, str]) -> tuple[str, dict[str, str], list[str]]:
    """Text with variables filled in, the values used by name, and what went wrong.

    `${env.NAME:-default}` takes the default when NAME is unset or empty, as a shell does;
    `$${env.NAME}` is the literal `${env.NAME}`.
    """
    used: dict[str, str] = {}
    wrong: list[str] = []

    def replace(found: re.Match[str]) -> str:
        escaped, name, default = found.groups()
        if escaped:
            return found[0][1:]
        if name is None:
            wrong.append(
                "cannot read this environment variable; write ${env.NAME} or"
                " ${env.NAME:-default}, or $${env. for the characters themselves"
            )
            return ""
        value = env.get(name)
        if default is not None and not value:
            return str(default[2:])
        if value is None:
            wrong.append(
                f"environment variable {name} is not set; set it, or give a default:"
                f" ${{env.{name}:-default}}"
            )
            return ""
        used[name] = value
        return value

    return _VARIABLE.sub(replace, text), used, wrong
