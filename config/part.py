"""A map of the file: what is common to all of them, and how their fields say their defaults."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from config.durations import seconds, size_in_bytes


class Part(BaseModel):
    """One map of the file. `key:` with nothing after it is the same as no key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=False,
        serialize_by_alias=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        keys = cls.keys()
        return {k: v for k, v in data.items() if v is not None or k not in keys}

    @classmethod
    def keys(cls) -> dict[str, FieldInfo]:
        """Its fields by the keys that stand in the YAML; two of them are words of Python."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    def written(self, *names: str) -> dict[str, Any]:
        """The fields that have a value, of those named or of all."""
        values = {name: getattr(self, name) for name in names or type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}


def lasts(text: str, description: str) -> Any:
    """A duration with a default, which the JSON Schema shows as it is written."""
    return Field(
        default=seconds(text), description=description, json_schema_extra={"default": text}
    )


def holds(text: str, description: str) -> Any:
    """A size with a default."""
    return Field(
        default=size_in_bytes(text), description=description, json_schema_extra={"default": text}
    )


def inherits(built_in: object, description: str, *, alias: str | None = None) -> Any:
    """Not set here: the value of `defaults` holds, and without it the built-in one."""
    return Field(
        default=None,
        alias=alias,
        description=description,
        json_schema_extra={"default": built_in},  # type: ignore[dict-item]
    )
