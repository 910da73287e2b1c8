"""The kinds of value that only policies have: expressions, languages, keys, request defaults."""

import math
import re
from typing import Annotated, Any

import re2
from pydantic import BeforeValidator, Field, WithJsonSchema

from config.fields import Name, Text
from config.problems import did_you_mean, shown
from config.scalars import WrittenFloat, WrittenInt

LONGEST_REGEX = 1000
MOST_WORDS = 1000
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_KEY = re.compile(r"sha256:[0-9a-f]{64}")
_AFFINITIES = ("conversation", "prompt_cache_key")

# What the language of a text is looked for among: ISO 639-1, as far as the detector knows it.
_CODES = (
    "af am an ar as az ba be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr fy ga gd"
    " gl gu ha he hi hr ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lg ln lo lt lv mg mk"
    " ml mn mr ms mt my ne nl nn no oc om or pa pl ps pt qu ro ru rw sa se si sk sl sn so sq sr st"
    " sv sw ta te tg th tk tl tr tt ug uk ur uz vi vo wa xh yo zh zu"
)
LANGUAGES = frozenset(_CODES.split())


def as_many(value: object) -> object:
    """A single value stands for a list of one."""
    return value if isinstance(value, list) or value is None else [value]


def not_empty(value: object) -> object:
    """As a validator that runs first: pydantic's own counts only the items without a mistake."""
    if isinstance(value, list) and not value:
        raise ValueError("must not be empty")
    return value


def header_name(name: str) -> bool:
    return re.fullmatch(_TOKEN, name) is not None


def _affinity(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value in _AFFINITIES:
        return value
    kind, colon, header = value.partition(":")
    if kind == "header" and colon and header_name(header):
        return f"header:{header.lower()}"
    hint = did_you_mean(value, _AFFINITIES) or ""
    raise ValueError(f"must be conversation, prompt_cache_key or header:NAME{hint}")


def _regex(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("must not be empty: it would match every text")
    if len(value) > LONGEST_REGEX:
        raise ValueError(f"must have at most {LONGEST_REGEX} characters")
    if mistake := regex_mistake(value):
        raise ValueError(f"is no regular expression of RE2: {mistake}")
    return value


def regex_mistake(pattern: str) -> str | None:
    """What is wrong with a regular expression; None when RE2 takes it."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        re2.compile(pattern.encode("utf-8", "replace"), options)
    except re2.error as error:
        reason = error.args[0]
        words = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        if "invalid perl operator" in words:
            words += "; it has no look-ahead and no look-behind"
        return words
    return None


def _word(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("must be a word or a phrase")
    return value


def _language(value: object) -> object:
    if not isinstance(value, str):
        # Norwegian is not `false` here: YAML 1.2 has no such boolean.
        raise ValueError("must be the code of a language, such as en")
    if value in LANGUAGES:
        return value
    lowered = value.lower()
    short = re.split("[-_]", lowered)[0]
    near = short if short in LANGUAGES else ""
    hint = f"; did you mean {near!r}?" if near else ", such as en, de or zh"
    raise ValueError(f"{shown(value)} is no code of a language in ISO 639-1 that is known{hint}")


def _caller_key(value: object) -> object:
    if isinstance(value, str) and not _KEY.fullmatch(value):
        # Not quoted: it may be the key itself.
        raise ValueError(
            "must be sha256: and the 64 hexadecimal digits of the key's hash, in lower case, as"
            " printf %s KEY | sha256sum prints them"
        )
    return value


def _plain(value: object) -> Any:
    """A value of YAML as JSON has it: numbers that remember no spelling. ValueError."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, WrittenFloat):
        value = float(value)
        if not math.isfinite(value):
            raise ValueError("JSON has no such number; write a finite one")
        return value
    return int(value) if isinstance(value, WrittenInt) else value


def plain_mistake(value: object) -> str | None:
    try:
        _plain(value)
    except ValueError as error:
        return str(error)
    return None


def _fields(value: object) -> object:
    return _plain(value) if isinstance(value, dict) else value


_ONE_TEXT: dict[str, Any] = {"type": ["string", "number"]}
_TEXTS: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "number"},
        {"type": "array", "items": _ONE_TEXT, "minItems": 1},
    ]
}
_SOME = (
    BeforeValidator(as_many),
    Field(min_length=1, max_length=MOST_WORDS),
    WithJsonSchema(_TEXTS),
)

Affinity = Annotated[
    str,
    BeforeValidator(_affinity),
    WithJsonSchema(
        {"type": "string", "pattern": rf"^(conversation|prompt_cache_key|header:{_TOKEN})$"}
    ),
]
"""The name of a header in lower case."""
Regex = Annotated[Text, BeforeValidator(_regex)]
Texts = Annotated[tuple[Text, ...], *_SOME]
Names = Annotated[tuple[Name, ...], *_SOME]
Keywords = Annotated[tuple[Annotated[Text, BeforeValidator(_word)], ...], *_SOME]
Languages = Annotated[tuple[Annotated[str, BeforeValidator(_language)], ...], *_SOME]
CallerKeys = Annotated[tuple[Annotated[Text, BeforeValidator(_caller_key)], ...], *_SOME]
RequestFields = Annotated[dict[Name, Any], BeforeValidator(_fields)]
