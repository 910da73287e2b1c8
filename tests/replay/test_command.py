"""`lamplighter replay` as people call it."""

import json
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main

OWN = """
version: 1
models:
  chat:
    cold:
      command: serve --port {port}
      gpu_hour: 2.5
      start_time: {p50: 23s, p90: 42s, p99: 52s}
    api: {url: "https://api.example.com/v1", price: {input: 0.5, output: 1.5}}
"""
OTHER = OWN.replace("start_time:", "idle: 5m\n      start_time:")
WITHOUT_API = OWN.split("    api:")[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng, rows, at_s = Random(1), ["time,model,input_tokens,output_tokens"], 0.0
    for _ in range(300):
        at_s += rng.expovariate(1 / 120)
        rows.append(f"{at_s:.3f},{rng.choice('abc')},{rng.randrange(2000)},{rng.randrange(500)}")
    Path("trace.csv").write_text("\n".join(rows) + "\n")
    Path("own.yaml").write_text(OWN)
    Path("other.yaml").write_text(OTHER)
    Path("alone.yaml").write_text(WITHOUT_API)
    two = OWN + WITHOUT_API.split("models:")[1].replace("chat", "draft")
    Path("two.yaml").write_text(two)
    return tmp_path


def run(*options: str) -> Result:
    return CliRunner().invoke(main, ["replay", *options])


def found(*options: str) -> dict:
    result = run(*options, "--json", "found.json")
    assert result.exit_code == 0, result.output
    return json.loads(Path("found.json").read_text())


@pytest.fixture
def everything(folder: Path) -> dict:
    return found(
        "own.yaml", "--trace", "trace.csv", "--compare", "other.yaml", "--baselines", "--deadline",
        "30s",
    )  # fmt: skip


ROWS = [
    "this file", "other.yaml", "always on", "outside API", "unload at once", "TTL 60 s",
    "TTL 300 s", "TTL 3600 s", "QPS rule", "hybrid histogram", "best TTL in hindsight",
    "clairvoyant",
]  # fmt: skip


def test_a_row_for_each_policy(everything):
    assert list(everything["policies"]) == ROWS
    assert set(everything["models"]) == {"a", "b", "c"}


def test_sums_over_models_are_the_whole(everything):
    for policy, whole in everything["policies"].items():
        parts = [of_model[policy] for of_model in everything["models"].values()]
        for name in ("usd", "requests", "starts", "missed", "delay_usd"):
            assert sum(part[name] for part in parts) == pytest.approx(whole[name], abs=1e-4)
        kinds = ("holding_usd", "starting_usd", "serving_usd", "api_usd")
        assert sum(whole[kind] for kind in kinds) == pytest.approx(whole["usd"], abs=1e-4)


def test_single_modes_are_what_they_say(everything):
    always, api = everything["policies"]["always on"], everything["policies"]["outside API"]
    assert (always["starts"], always["wait_p99_s"], always["api_usd"]) == (0, 0, 0)
    assert (api["overflow_share"], api["usd"]) == (1.0, api["api_usd"])
    rows = [line.split(",") for line in Path("trace.csv").read_text().splitlines()[1:]]
    tokens = sum(float(r[2]) * 0.5 + float(r[3]) * 1.5 for r in rows)
    assert api["usd"] == pytest.approx(tokens / 1e6, rel=1e-4)


def test_longer_idle_times_hold_more_and_start_less(everything):
    names = ["unload at once", "TTL 60 s", "TTL 300 s", "TTL 3600 s"]
    rows = [everything["policies"][name] for name in names]
    held, starts = [r["holding_usd"] for r in rows], [r["starts"] for r in rows]
    assert held == sorted(held)
    assert starts == sorted(starts, reverse=True)


def test_the_same_seed_gives_the_same_figures(folder):
    one = found("own.yaml", "--trace", "trace.csv", "--seed", "5", "--baselines")
    assert found("own.yaml", "--trace", "trace.csv", "--seed", "5", "--baselines") == one
    assert found("own.yaml", "--trace", "trace.csv", "--seed", "6", "--baselines") != one


def test_tables_have_the_same_rows(everything):
    result = run("own.yaml", "--trace", "trace.csv", "--baselines")
    assert result.exit_code == 0
    assert "columns: time = time, model = model" in result.output
    assert "3 models, 300 requests" in result.output
    for name in (r for r in ROWS if r != "other.yaml"):
        assert sum(line.strip().startswith(name) for line in result.output.splitlines()) == 2


def test_without_a_price_there_is_no_sum_for_the_api(folder):
    result = run("alone.yaml", "--trace", "trace.csv", "--baselines")
    assert result.exit_code == 0
    assert "outside API: not possible for 3 models" in result.output


def test_days_and_like(folder):
    whole = found("two.yaml", "--trace", "trace.csv", "--like", "draft")
    first = found("two.yaml", "--trace", "trace.csv", "--like", "chat", "--days", "0.1")
    requests = [f["policies"]["this file"]["requests"] for f in (whole, first)]
    assert 0 < requests[1] < requests[0]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
@pytest.mark.parametrize("more", [("--baselines",), ("--timeline", "a")])
def test_pictures_are_drawn(folder, suffix, more):
    file = f"picture{suffix}"
    result = run("own.yaml", "--trace", "trace.csv", "--picture", file, *more)
    assert result.exit_code == 0, result.output
    assert Path(file).stat().st_size > 5000


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("own.yaml", "--trace", "none.csv"), 1, "none.csv: cannot read it: No such file"),
        (("none.yaml", "--trace", "trace.csv"), 1, "cannot read the file"),
        (("two.yaml", "--trace", "trace.csv"), 1, "say with --like which of its models"),
        (("two.yaml", "--trace", "trace.csv", "--like", "x"), 1, "has no model x, but chat, draft"),
        (("own.yaml", "--trace", "trace.csv", "--deadline", "soon"), 2, "'soon' is not a duration"),
        (("own.yaml", "--trace", "trace.csv", "--days", "0"), 2, "--days"),
        (("own.yaml", "--trace", "trace.csv", "--timeline", "a"), 2, "needs the --picture"),
        (
            ("own.yaml", "--trace", "trace.csv", "--timeline", "z", "--picture", "z.svg"),
            2,
            "the trace has no model z",
        ),
        (("own.yaml", "--trace", "trace.csv", "--picture", "p.gif"), 2, "must end in .svg or .png"),
        (("own.yaml", "--trace", "trace.csv", "--json", "no/f.json"), 1, "cannot write"),
    ],
)
def test_what_is_wrong_is_told(folder, options, code, told):
    result = run(*options)
    assert (result.exit_code, result.exception is None) == (code, False)
    assert isinstance(result.exception, SystemExit)
    assert told in " ".join(result.output.split())


def test_names_of_a_trace_are_no_markup_and_no_terminal_codes(folder):
    Path("names.csv").write_text("time,model\n1,[/x]\n2,\x1b[31mred\n")
    Path("[b].yaml").write_text(OTHER)
    shown = run("own.yaml", "--trace", "names.csv", "--compare", "[b].yaml")
    assert shown.exit_code == 0, shown.output
    assert "[b].yaml" in shown.output
    told = run("own.yaml", "--trace", "names.csv", "--timeline", "z", "--picture", "z.svg")
    assert "'[/x]', '\\x1b[31mred'" in told.output


# --- what a file says beside its models on demand -------------------------------------------------


def spent(text: str) -> dict:
    Path("changed.yaml").write_text(text)
    return found("changed.yaml", "--trace", "trace.csv")["policies"]["this file"]


def test_a_budget_of_all_models_together_is_kept(folder):
    free = spent(OWN.replace("  chat:", "  chat:\n    placement: {pin: on_demand}"))
    days = 300 * 120 / 86400
    limited = OWN.replace("models:", "budget: {usd_per_day: 0.5}\nmodels:")
    kept = spent(limited.replace("  chat:", "  chat:\n    placement: {pin: on_demand}"))
    assert free["usd"] > 2.0
    assert kept["refused"] > 0
    # What runs when it is spent ends what it serves, and a minute may pass until that is seen.
    assert kept["usd"] < 0.5 * (days + 1) * 1.25


def test_a_budget_of_each_model_is_kept(folder):
    limited = "  chat:\n    budget: {usd_per_day: 0.2}\n    placement: {pin: on_demand}"
    kept = spent(OWN.replace("  chat:", limited))
    assert kept["refused"] > 0
    assert kept["usd"] < 3 * 0.2 * 2 * 1.25


def test_an_always_on_pool_costs_its_hours_and_nobody_waits(folder):
    hot = OWN.split("    cold:")[0] + (
        "    hot: {urls: [{url: http://10.0.0.1/v1, gpu_hour: 3}, http://10.0.0.2/v1]}\n"
    )
    row = spent(hot)
    last_s = float(Path("trace.csv").read_text().splitlines()[-1].split(",")[0])
    assert row["usd"] == pytest.approx(3 * 3 * last_s / 3600, rel=1e-4)
    assert (row["wait_p99_s"], row["starts"]) == (0, 0)


def test_an_outside_api_alone_costs_its_tokens(folder):
    row = spent(OWN.split("    cold:")[0] + "    api:" + OWN.split("    api:")[1])
    assert row["usd"] == row["api_usd"] > 0


def test_what_is_left_out_is_said(folder):
    shared = "devices: {gpu: {memory: 80GiB}}\nmodels:"
    text = OWN.replace("models:", shared).replace(
        "gpu_hour", "device: gpu\n      memory: 8GiB\n      gpu_hour"
    )
    Path("changed.yaml").write_text(text)
    said = run("changed.yaml", "--trace", "trace.csv").output
    assert "devices are not simulated" in said
    assert "taken to cost" not in said
    unpriced = "".join(line for line in OWN.splitlines(True) if "gpu_hour" not in line)
    Path("changed.yaml").write_text(unpriced)
    said = run("changed.yaml", "--trace", "trace.csv").output
    assert "a server without gpu_hour is taken to cost 1 USD an hour" in said


def test_without_tokens_no_api_looks_free(folder):
    rows = [line.split(",") for line in Path("trace.csv").read_text().splitlines()]
    Path("trace.csv").write_text("".join(f"{row[0]},{row[1]}\n" for row in rows))
    assert spent(OWN)["overflow_share"] == 0
    timed = [f"{row[0]},{row[1]},{'duration' if n == 0 else 10}\n" for n, row in enumerate(rows)]
    Path("trace.csv").write_text("".join(timed))
    api = found("own.yaml", "--trace", "trace.csv", "--baselines")["policies"]["outside API"]
    assert api["usd"] == pytest.approx(300 * 10 * 50 * 1.5 / 1e6)  # 50 tokens a second
