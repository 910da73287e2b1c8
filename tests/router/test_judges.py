"""Files that cascades judge by, as a configuration names them."""

import json
import struct
from pathlib import Path

import pytest
from msgspec.structs import replace

from config.load import parse
from config.problems import ConfigError
from config.schema import Config
from policies.calibration import STATED_DEFAULTS, encode
from router import judges as module
from router.calibrate.files import neighbours_beside
from router.embedder import embedder
from router.judges import judges
from tests.engines.require import need


def configured(calibration: Path, pair: str = "small, large") -> Config:
    models = "".join(f"  {name}: {{hot: {{urls: [http://h/v1]}}}}\n" for name in ("small", "large"))
    use = f"{{cascade: [{pair}], accept: {{calibration: {calibration}}}}}"
    rules = f"policies:\n  chat:\n    first_match:\n      - use: {use}\n"
    return parse(f"version: 1\nmodels:\n{models}{rules}", "f.yaml", {})


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    made = replace(STATED_DEFAULTS, policy="chat", small="small", large="large")
    path.write_bytes(encode(made))
    return path


def test_calibration_of_the_pair_is_taken(calibration: Path) -> None:
    found = judges(configured(calibration), "f.yaml")
    assert found[str(calibration)].calibration.small == "small"
    assert found[str(calibration)].neighbours is None


def test_calibration_of_another_pair_is_a_mistake_on_its_rule(calibration: Path) -> None:
    with pytest.raises(ConfigError, match=r"f.yaml:8:1: .* was made for .*\[small, large\]"):
        judges(configured(calibration, "large, small"), "f.yaml")


def test_calibration_that_names_no_pair_fits_any(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(encode(STATED_DEFAULTS))
    assert judges(configured(path, "large, small"), "f.yaml")


def test_labelled_prompts_without_an_embedder_are_a_mistake(
    calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours_beside(calibration).write_bytes(b"{}")
    monkeypatch.setattr(module, "embedder", lambda: None)
    with pytest.raises(ConfigError, match=r"lamplighter\[embeddings\]"):
        judges(configured(calibration), "f.yaml")


def test_labelled_prompts_of_another_length_are_a_mistake(calibration: Path) -> None:
    need("embeddings")
    embeds = embedder()
    assert embeds is not None
    head = {"neighbours": 1, "embedder": embeds.name, "rows": 1, "dimensions": 1}
    one = struct.pack("<f", 1.0) + b"\x01\x00\x01"
    neighbours_beside(calibration).write_bytes(json.dumps(head).encode() + b"\n" + one)
    with pytest.raises(ConfigError, match="vectors of 1 and not 384"):
        judges(configured(calibration), "f.yaml")


def test_broken_files_are_mistakes(calibration: Path) -> None:
    calibration.write_text("{}")
    with pytest.raises(ConfigError, match="no calibration"):
        judges(configured(calibration), "f.yaml")
