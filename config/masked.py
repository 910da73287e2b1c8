"""A configuration as JSON for people to look at, with everything secret taken out."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from config.fields import looks_secret
from config.schema import Config

MASK = "**********"


def masked(config: Config) -> dict[str, Any]:
    """Durations and sizes as they are written in YAML; keys and secret-looking values masked."""
    out: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    for overridable in (out["defaults"], *out["models"].values()):
        for key in ("queue", "timeouts", "keepalive"):
            if not overridable[key]:
                del overridable[key]
    for name, model in out["models"].items():
        model["settings"] = _settings(config, name)
        cold = model.get("cold")
        if cold:
            cold["command"] = _command(cold["command"])
            cold["env"] = {
                key: MASK if looks_secret(key) else _without_userinfo(value)
                for key, value in cold["env"].items()
            }
    return out


def _settings(config: Config, model: str) -> dict[str, Any]:
    """What holds after merging, in the form of the YAML."""
    settings = config.settings(model)
    return settings.as_defaults().model_dump(mode="json")


def _command(words: Sequence[str]) -> list[str]:
    """`--api-key x`, `--api-key=x` and `HF_TOKEN=x` without the x."""
    out: list[str] = []
    hide_next = False
    for word in words:
        name, sign, _ = word.partition("=")
        if hide_next and not word.startswith("--"):
            out.append(MASK)
            hide_next = False
        elif sign and looks_secret(name):
            out.append(f"{name}={MASK}")
        else:
            hide_next = word.startswith("-") and looks_secret(word)
            out.append(_without_userinfo(word))
    return out


def _without_userinfo(text: str) -> str:
    """URLs in a command or an environment may carry a password; those of models may not."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if not parts.scheme or "@" not in parts.netloc:
        return text
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
