"""The kinds of value a key can hold, beyond durations and sizes: names, URLs, secrets, commands."""

import re
import shlex
from typing import Annotated, Any, Literal, NoReturn, get_args
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    Strict,
    StringConstraints,
    WithJsonSchema,
)

from config.durations import DURATION_PATTERN, LONGEST_S, seconds, spelled_duration
from config.problems import did_you_mean, shown
from config.scalars import FilledText, WrittenFloat, WrittenInt, core
from config.templates import check_placeholders

MAX_NAME = 200
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_UNQUOTED_JSON = re.compile(r"(-[-\w.]*=)?\{\s*\w+\s*:", re.ASCII)
_OPERATIONS = re.compile(r"/(chat/completions|completions|embeddings|responses|models|messages)$")


def looks_secret(name: str) -> bool:
    """Whether what goes by this name should not be shown: HF_TOKEN, --api-key."""
    return _SECRET_NAME.search(name) is not None


def is_secret_header(name: str) -> bool:
    """Whether values of a header are not to be shown; `name` in lower case."""
    return looks_secret(name) or name in ("authorization", "cookie")


def _as_text(value: object) -> object:
    """Digits are text where text is wanted: `key: 0123`, `env: {THREADS: 8}`."""
    return value.text if isinstance(value, WrittenInt | WrittenFloat) else value


def _as_number(value: object) -> object:
    """Inside {...} a variable must be quoted, and is a number for all that."""
    return core(value) if isinstance(value, FilledText) else value


def _one(value: object) -> object:
    if isinstance(value, bool) or value != 1:
        raise ValueError("must be 1, the only version there is")
    return 1


def _name(value: object) -> object:
    value = _as_text(value)
    if isinstance(value, str):
        if not value:
            raise ValueError("must not be empty")
        if len(value) > MAX_NAME or not value.isprintable():
            raise ValueError(f"must be at most {MAX_NAME} printable characters")
    return value


Text = Annotated[str, BeforeValidator(_as_text)]
Name = Annotated[
    str,
    BeforeValidator(_name),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200}),
]
Version = Annotated[int, BeforeValidator(_one), WithJsonSchema({"const": 1})]
Flag = Annotated[bool, Strict(), BeforeValidator(_as_number)]
Whole = Annotated[int, Strict(), BeforeValidator(_as_number), Field(le=10**9)]
Real = Annotated[float, Strict(), BeforeValidator(_as_number), Field(allow_inf_nan=False, le=1e9)]
Usd = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Secret = Annotated[SecretStr, Field(min_length=1), BeforeValidator(_as_text)]
Host = Annotated[str, BeforeValidator(_as_text), StringConstraints(min_length=1, max_length=255)]


def _template(value: object) -> object:
    text = _as_text(value)
    if isinstance(text, str):
        if "\0" in text:
            raise ValueError("must not contain the character U+0000")
        check_placeholders(text, quote=not isinstance(text, FilledText))
    return text


Template = Annotated[str, BeforeValidator(_template)]


def split_command(value: object) -> object:
    """A command written as one string, split as a shell would. A list comes back as it is."""
    if isinstance(value, str):
        try:
            # shlex keeps the newline of a continued line, a shell drops it.
            words = shlex.split(value.replace("\\\n", " "))
        except ValueError:
            raise ValueError("a quote is opened and not closed") from None
        if any(_UNQUOTED_JSON.match(word) for word in words):
            raise ValueError(
                "the quotes inside a JSON argument are removed, as a shell would; put single"
                " quotes around the argument, or write the command as a list"
            )
        value = [FilledText(word) if isinstance(value, FilledText) else word for word in words]
    if value == [] or isinstance(value, list) and value[0] == "":
        raise ValueError("must name a program to run")
    return value


Command = Annotated[
    tuple[Template, ...],
    BeforeValidator(split_command),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1},
            ]
        }
    ),
]
"""Words of a command; each may hold placeholders."""


def _env(value: object) -> object:
    if not isinstance(value, dict):
        return value
    for name in value:
        if not name or "=" in name or "\0" in name:
            raise ValueError("the name of an environment variable is not empty and has no '='")
    # `HF_TOKEN: ${env.HF_TOKEN:-}` is the empty text here, not "no such key".
    texts = {name: "" if text is None else text for name, text in value.items()}
    return {
        name: FilledText(text) if isinstance(text, str) and looks_secret(name) else text
        for name, text in texts.items()
    }


Environment = Annotated[dict[str, Template], BeforeValidator(_env)]


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _parts(value: object) -> tuple[str, SplitResult]:
    """A trimmed URL and its parts. The messages never quote a URL that may carry a password."""
    if not isinstance(value, str):
        raise ValueError("must be a URL, such as http://10.0.0.4:8000/v1")
    url = value.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        port_ok = parts.port != 0
    except ValueError:
        raise ValueError("is not a URL: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        _refuse("must be a URL that begins with http:// or https:// and a host")
    if "@" in parts.netloc:
        _refuse("must not carry a user name or password; put the secret under key")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        _refuse("must not carry a query or fragment (? or #)")
    if not port_ok or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        _refuse("is not a URL: it has a character or a port that a URL cannot have")
    return url, parts


def base_url(value: object) -> str:
    """An OpenAI base URL that ends in /v1, without a trailing slash."""
    url, parts = _parts(value)
    if operation := _OPERATIONS.search(parts.path):
        _refuse(f"must be a base URL; leave out {operation[0]}")
    if not re.search(r"/v[0-9]\w*$", parts.path):
        hint = "" if isinstance(value, FilledText) else f"; did you mean {url}/v1?"
        _refuse(f"must end in /v1{hint}")
    return url


def api_url(value: object) -> str:
    """An OpenAI base URL of an outside API; some end in /v1beta/openai, so any path will do."""
    url, parts = _parts(value)
    if operation := _OPERATIONS.search(parts.path):
        _refuse(f"must be a base URL; leave out {operation[0]}")
    if not parts.path:
        hint = "" if isinstance(value, FilledText) else f"; did you mean {url}/v1?"
        _refuse(f"must have a path{hint}")
    return url


def _path(value: object) -> object:
    if isinstance(value, str):
        if not re.fullmatch(r"/[A-Za-z0-9_.~%/-]*", value) or "//" in value:
            raise ValueError(f"{shown(value)} is not a path; write one such as /v1")
        value = value.rstrip("/")
    return value


_URL: dict[str, Any] = {"type": "string", "pattern": "^https?://"}
BaseUrl = Annotated[str, BeforeValidator(base_url), WithJsonSchema(_URL)]
ApiUrl = Annotated[str, BeforeValidator(api_url), WithJsonSchema(_URL)]
UrlPath = Annotated[
    str, BeforeValidator(_path), WithJsonSchema({"type": "string", "pattern": "^/"})
]
"""Begins with a slash and does not end in one; "/" becomes ""."""


def _file_path(value: object) -> object:
    value = _as_text(value)
    if isinstance(value, str) and (not value or "\0" in value):
        raise ValueError("must be the path of a file")
    return value


FilePath = Annotated[str, BeforeValidator(_file_path)]


def _time_zone(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ZoneInfo(value).key
    except (KeyError, ValueError, OSError):  # no such zone; no such name; a folder
        hint = did_you_mean(value, available_timezones()) or ", such as Europe/Berlin"
        raise ValueError(f"{shown(value)} is no time zone{hint}") from None


TimeZone = Annotated[str, BeforeValidator(_time_zone)]

IdleRule = Literal["clamped", "empirical", "ski_rental"]
IDLE_RULES: tuple[IdleRule, ...] = get_args(IdleRule)


def _idle(value: object) -> object:
    for rule in IDLE_RULES:
        if value == rule:
            return rule
    try:
        idle_s = seconds(value)
    except ValueError as error:
        hint = did_you_mean(str(value), IDLE_RULES) or f"; or one of {', '.join(IDLE_RULES)}"
        raise ValueError(f"{error}{hint}") from None
    if idle_s <= 0:
        raise ValueError("must be longer than 0s")
    return idle_s


def _spelled_idle(value: float | IdleRule) -> str:
    return value if isinstance(value, str) else spelled_duration(value)


Idle = Annotated[
    float | IdleRule,
    BeforeValidator(_idle),
    PlainSerializer(_spelled_idle, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": DURATION_PATTERN},
                {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_S},
                {"enum": ["never", *IDLE_RULES]},
            ]
        }
    ),
]
"""Seconds, math.inf for never; or the name of the rule that says how long."""
