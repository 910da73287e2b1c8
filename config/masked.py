"""A configuration as JSON for people to look at, with everything secret taken out."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from config.fields import is_secret_header, looks_secret
from config.schema import Config, secret_text
from config.settings import Defaults, Keepalive, Placement, Queue, Settings, Timeouts

MASK = "**********"


def masked(config: Config) -> dict[str, Any]:
    """Durations and sizes as they are written in YAML; keys and secret-looking values masked."""
    out: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    for part in (out, out["defaults"], *out["models"].values()):
        _drop_empty(part, "budget", "queue", "timeouts", "keepalive", "placement")
    for name, model in out["models"].items():
        model["settings"] = written_out(config.settings(name)).model_dump(
            mode="json", exclude_none=True
        )
        cold = model.get("cold")
        if cold:
            _drop_empty(cold, "sleep")
            cold["command"] = _command(cold["command"])
            cold["env"] = {
                key: MASK if looks_secret(key) else _without_userinfo(value)
                for key, value in cold["env"].items()
            }
    for policy in out["policies"].values():
        for rule in policy["first_match"]:
            _mask_headers(rule.get("when"))
    return out


def secrets_in(config: Config) -> list[str]:
    """Every value that is secret, the longest first: what a text must not show.

    Values of up to three characters are not: replacing "1" would garble every text.
    """
    found = [secret_text(config.admin.key)]
    for model in config.models.values():
        if model.hot is not None:
            found += [secret_text(item.key) for item in model.hot.urls]
        if model.api is not None:
            found.append(secret_text(model.api.key))
        if model.cold is not None:
            found += [value for key, value in model.cold.env.items() if looks_secret(key)]
    for policy in config.policies.values():
        for when in policy.conditions():
            headers = (when.header or {}).items()
            found += [v for name, values in headers if is_secret_header(name) for v in values]
    return sorted({value for value in found if value and len(value) > 3}, key=len, reverse=True)


def _mask_headers(when: dict[str, Any] | None) -> None:
    """Values of headers that look secret, of which a condition wants one; as JSON."""
    if when is None:
        return
    for name, values in when.get("header", {}).items():
        if is_secret_header(name):
            when["header"][name] = [MASK] * len(values)
    for inner in (*when.get("any_of", ()), *when.get("all_of", ()), when.get("not")):
        _mask_headers(inner)


def _drop_empty(part: dict[str, Any], *keys: str) -> None:
    """Take out the maps in which nothing is set."""
    for key in keys:
        if part.get(key) == {}:
            del part[key]


def written_out(settings: Settings) -> Defaults:
    """What holds after merging, in the form of the YAML, every key written."""
    groups = {
        "queue": Queue.model_construct(**asdict(settings.queue)),
        "timeouts": Timeouts.model_construct(**asdict(settings.timeouts)),
        "keepalive": Keepalive.model_construct(**asdict(settings.keepalive)),
        "placement": Placement.model_construct(**asdict(settings.placement)),
    }
    return Defaults.model_construct(**{**asdict(settings), **groups})


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
