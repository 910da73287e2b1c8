"""`lamplighter cost`: what it prints and writes, and what it says of bad input."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "cost.md"
PUBLISHED = ("--request-s", "5", "--gpu-second", "0.001", "--always-on-hour", "32")
API = ("--input-tokens", "1000", "--output-tokens", "300", "--api-input", "1", "--api-output", "4")
FILE = """
version: 1
models:
  both:
    aliases: [alias]
    cold:
      command: serve --port {port}
      gpu_hour: 2.5
      idle: 5m
      start_time: {p50: 23s, p90: 42s}
      speed: {requests: 4, input: 1000, output: 50}
    api: {url: "https://api.example.com/v1", price: {input: 0.2, output: 0.6}}
  pool:
    hot: {urls: [{url: "http://a/v1", gpu_hour: 2, max_concurrency: 8},
                 {url: "http://b/v1", gpu_hour: 3, max_concurrency: 4}]}
    cold: {command: "serve --port {port}", gpu_hour: 1, max_concurrency: 3, start_time: 30s}
  never:
    cold: {command: "serve --port {port}", gpu_hour: 1, idle: never}
  free:
    hot: {urls: ["http://a/v1"]}
"""


def cost(*options: str) -> Result:
    return CliRunner().invoke(main, ["cost", *options], env={"COLUMNS": "100"})


def said(*options: str) -> str:
    result = cost(*options)
    assert result.exit_code == 0, result.output
    return result.output


def figures(tmp_path: Path, *options: str) -> Any:
    file = tmp_path / "figures.json"
    said(*options, "--json", str(file))
    return json.loads(file.read_text())


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "models.yaml"
    file.write_text(FILE)
    return str(file)


def test_the_published_example_gives_the_published_figures() -> None:
    lines = said(*PUBLISHED).splitlines()
    (row,) = [line.split() for line in lines if line.split()[:1] == ["1,000"]]
    assert row == ["1,000", "23,040.00", "150.00", "on", "demand", "1,000"]
    assert lines[-1] == "At 153,600 requests a day always on becomes cheaper than on demand."


def test_servers_that_are_kept_for_a_minute_give_the_published_crossover() -> None:
    assert "At 70,147 requests a day always on" in said(*PUBLISHED, "--idle-s", "60")


@pytest.mark.parametrize(
    ("idle_s", "usd", "crossover"),
    re.findall(r"^\| (\d+) s \| \$([\d,]+) \| ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE),
)
def test_the_page_shows_what_the_command_gives(
    tmp_path: Path, idle_s: str, usd: str, crossover: str
) -> None:
    found = figures(tmp_path, *PUBLISHED, "--idle-s", idle_s)
    (row,) = [row for row in found["rows"] if row["requests_a_day"] == 1000]
    assert f"{row['usd']['on_demand']:,.0f}" == usd
    assert f"{found['crossovers'][0]['requests_a_day']:,.0f}" == crossover


def test_of_ways_that_never_cross_the_cheaper_one_is_told() -> None:
    last = said(*PUBLISHED, "--idle-s", "10", *API).splitlines()[-1]
    assert last == (
        "At any number from 1 to 10,000,000 requests a day outside API is no dearer than on demand."
    )


def test_an_api_alone_needs_no_servers() -> None:
    output = said("--request-s", "5", *API)
    assert "OUTSIDE API" in output
    assert "STARTS A DAY" not in output


def test_json_holds_what_the_table_shows(tmp_path: Path) -> None:
    found = figures(tmp_path, *PUBLISHED, *API)
    assert found["days"] == 30
    assert found["inputs"]["on_demand_hour"] == pytest.approx(3.6)
    (row,) = [row for row in found["rows"] if row["requests_a_day"] == 1000]
    assert row["usd"] == pytest.approx({"always_on": 23_040, "on_demand": 150, "api": 66})
    assert row["cheapest"] == "api"
    assert row["starts_a_day"] == pytest.approx(1000)
    assert [c["above"] for c in found["crossovers"]] == ["always_on", "always_on"]


def test_a_model_gives_what_no_option_says(tmp_path: Path, config: str) -> None:
    tokens = ("--input-tokens", "1000", "--output-tokens", "100")
    found = figures(tmp_path, "--config", config, "--model", "alias", *tokens, "--start-s", "60")
    assert found["inputs"] == {
        "request_s": 3.0,  # a second to read, two to write
        "on_demand_hour": 2.5,
        "concurrency": 12,  # four a second
        "start_s": 60.0,
        "idle_s": 300.0,
        "always_on_hour": 2.5,
        "always_on_concurrency": 12,
        "input_tokens": 1000,
        "output_tokens": 100,
        "api_input": 0.2,
        "api_output": 0.6,
    }


def test_a_pool_is_one_server_with_the_places_of_all(tmp_path: Path, config: str) -> None:
    found = figures(tmp_path, "--config", config, "--model", "pool", "--request-s", "2")
    inputs = found["inputs"]
    assert (inputs["always_on_hour"], inputs["always_on_concurrency"]) == (5, 12)
    assert (inputs["on_demand_hour"], inputs["concurrency"]) == (1, 3)
    assert inputs["idle_s"] == 30  # the rule `clamped` weighs holding against a start of 30 s


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "no price to compare: give two or three of --gpu-hour (or --gpu-second)"),
        (("--gpu-hour", "2"), "give --request-s"),
        ((*PUBLISHED, "--gpu-hour", "2"), "say the same thing twice"),
        ((*PUBLISHED, "--api-input", "2"), "give --input-tokens, --output-tokens"),
        ((*PUBLISHED, "--picture", "x.gif"), "--picture x.gif must end in .svg or .png"),
        ((*PUBLISHED, "--model", "m"), "--model needs the --config"),
        ((*PUBLISHED, "--idle-s", "nan"), "nan is not a finite number"),
        ((*PUBLISHED, "--idle-s", "inf"), "inf is not a finite number"),
        ((*PUBLISHED, "--start-s", "-1"), "-1"),
        (("--request-s", "0", "--gpu-hour", "2"), "'--request-s': 0"),
        ((*PUBLISHED, "--concurrency", "0"), "'--concurrency'"),
        (("--config", "/no/such.yaml"), "/no/such.yaml:1:1: cannot read the file"),
    ],
)
def test_bad_input_is_told(options: tuple[str, ...], says: str) -> None:
    result = cost(*options)
    assert result.exit_code != 0
    assert says in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "--model: which one?"),
        (("--model", "boht"), "has no boht, but both, pool, never, free"),
        (("--model", "never", "--request-s", "1"), "idle: never is a server that is always on"),
        (("--model", "free", "--request-s", "1"), "no price to compare"),
        (("--model", "both"), "the outside API is paid by token"),
    ],
)
def test_a_model_that_cannot_be_compared_is_told(
    config: str, options: tuple[str, ...], says: str
) -> None:
    result = cost("--config", config, *options)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())


def test_a_file_that_cannot_be_written_is_told_after_the_table(tmp_path: Path) -> None:
    result = cost(*PUBLISHED, "--json", str(tmp_path / "absent" / "figures.json"))
    assert result.exit_code == 1
    assert "153,600" in result.output
    assert "cannot write" in result.output


@pytest.mark.parametrize(("suffix", "begins"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_a_picture_is_drawn_and_the_same_each_time(
    tmp_path: Path, suffix: str, begins: bytes
) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for file in files:
        said(*PUBLISHED, *API, "--picture", str(file))
    drawn = [file.read_bytes() for file in files]
    assert drawn[0].startswith(begins)
    assert drawn[0] == drawn[1]


def test_without_matplotlib_the_table_comes_and_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = cost(*PUBLISHED, "--picture", str(tmp_path / "cost.svg"))
    assert result.exit_code == 1
    assert "153,600" in result.output
    assert "pip install 'lamplighter[replay]'" in result.output
    assert list(tmp_path.iterdir()) == []
