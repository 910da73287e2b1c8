"""Traces in all their shapes, and what is said of those that cannot be read."""

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from router.replay.columns import TraceError
from router.replay.rates import RateTrace
from router.replay.reading import read
from router.replay.traces import MONDAY_S, RequestTrace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.csv"


def requests(path: Path, text: str) -> RequestTrace:
    path.write_text(text)
    trace = read(path, 0)
    assert isinstance(trace, RequestTrace)
    return trace


def times(trace: RequestTrace, model: str) -> list[float]:
    return list(trace.requests(model, 1.0).at_s)


def test_the_documented_shape(path):
    trace = requests(
        path,
        "time,model,input_tokens,output_tokens,priority,deadline\n"
        "1.5,a,100,20,high,30\n2.5,b,5,6,,\n4,a,7,8,low,0\n",
    )
    assert trace.models == ("a", "b")
    a = trace.requests("a", 1.0)
    assert (list(a.at_s), list(a.inputs), list(a.outputs)) == ([1.5, 4.0], [100, 7], [20, 8])
    assert (list(a.priorities), list(a.deadlines_s)) == ([2, 0], [30.0, 0.0])
    assert trace.requests("b", 1.0).priorities[0] == -1
    assert (trace.epoch_s, trace.length_s) == (MONDAY_S, 4.0)


@pytest.mark.parametrize(
    "header",
    [
        "time_s,model,input_tokens,output_tokens",
        "Timestamp,Model Name,prompt_tokens,completion_tokens",
        "arrival_time,model_id,ContextTokens,GeneratedTokens",
        "arrived_at;service;num_prefill_tokens;num_decode_tokens",
        "ts\tdeployment\tinput_length\toutput_length",
    ],
)
def test_columns_are_known_by_many_names(path, header):
    delimiter = next(d for d in ",;\t" if d in header)
    trace = requests(path, header + "\n" + delimiter.join(("7", "a", "3", "4")) + "\n")
    found = trace.requests("a", 1.0)
    assert (found.at_s[0], found.inputs[0], found.outputs[0]) == (7.0, 3.0, 4.0)
    assert header.split(delimiter)[0] in trace.notes[0]


@pytest.mark.parametrize(
    ("text", "epoch_s"),
    [
        ("2023-11-16 18:17:03.9799600", 1700158623.97996),
        ("2023-11-16T18:17:03.97996Z", 1700158623.97996),
        ("2023-11-16T19:17:03.97996+01:00", 1700158623.97996),
        ("1700158623.97996", 1700158623.97996),
        ("1700158623979.96", 1700158623.97996),
        ("1700158623979960", 1700158623.97996),
    ],
)
def test_dates_begin_where_they_begin(path, text, epoch_s):
    trace = requests(path, f"TIMESTAMP,ContextTokens,GeneratedTokens\n{text},4,5\n")
    assert trace.models == ("trace",)
    assert trace.epoch_s == pytest.approx(epoch_s, abs=1e-3)
    assert times(trace, "trace") == [0.0]


def test_rows_out_of_order_are_sorted_with_all_their_columns(path):
    trace = requests(path, "time,model,input_tokens\n9,a,1\n3,a,2\n5,b,3\n4,a,4\n")
    found = trace.requests("a", 1.0)
    assert (list(found.at_s), list(found.inputs)) == ([3.0, 4.0, 9.0], [2.0, 4.0, 1.0])


def test_ends_and_durations_tell_when_functions_began(path):
    app, func = "7" * 64, "e" * 64
    trace = requests(path, f"app,func,end_timestamp,duration\n{app},{func},5.5,2\n")
    (model,) = trace.models
    assert model == "7" * 10 + "/" + "e" * 10
    found = trace.requests(model, 1.0)
    assert (found.at_s[0], found.durations_s[0]) == (3.5, 2.0)


def test_json_lines_of_mooncake_count_milliseconds(tmp_path):
    path = tmp_path / "chat.jsonl"
    rows = [
        {"timestamp": 1500, "input_length": 10, "output_length": 2, "hash_ids": [1]},
        {"timestamp": 4000, "input_length": 20, "output_length": 3, "hash_ids": []},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace = read(path, 0)
    assert trace.models == ("chat",)
    assert list(trace.requests("chat", 1.0).at_s) == [1.5, 4.0]


def test_gz_is_read_whatever_its_name(path):
    path.write_bytes(gzip.compress(b"time,model\n1,a\n2,a\n"))
    assert list(read(path, 0).requests("a", 1.0).at_s) == [1.0, 2.0]


def test_days_cut_off_the_rest(path):
    path.write_text("time,model\n1,a\n86399,a\n86401,a\n90000,b\n")
    trace = read(path, 0, days=1)
    assert trace.models == ("a",)
    assert list(trace.requests("a", 1.0).at_s) == [1.0, 86399.0]
    assert trace.end_s("a") == 86400.0


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "the file is empty"),
        ("1,2,3\n", 1, "must name the columns"),
        ("a,b\n1,2\n", 1, "no column tells the time"),
        ("time,model\n1,a\n2\n", 3, "1 cells where the header has 2"),
        ("time,model\n1,a\nsoon,a\n", 3, "'soon' is not seconds"),
        ("time,model\nsoon,a\n", 2, "'soon' is not seconds"),
        ("time,model\n1,a\n,a\n", 3, "the time is missing"),
        ("time,model\nnan,a\n", 2, "is no time"),
        ("time,model\n1,a\n1e300,a\n", 3, "is no time"),
        ('{"time": 1}\n{"time": 1' + 400 * "0" + "}\n", 2, "too large"),
        ("time,model,input_tokens\n1,a,-4\n", 2, "-4 is not a number of at least 0"),
        ("time,model,input_tokens\n1,a,many\n", 2, "'many' is not a number"),
        ("time,model,priority\n1,a,urgent\n", 2, "not low, normal or high"),
        ("time,model\n1,\n", 2, "the model's name is empty"),
        ('{"time": 1}\n{"time": \n', 2, "not JSON"),
        ('{"time": 1}\n[]\n', 2, "not a JSON object"),
        ('{"time": 1}\n{"time": ' + 100_000 * "[" + "\n", 2, "not JSON"),
        ("window_start_s,rate_rps\n0,fast\n", 2, "'fast' is not a number"),
        ("window_start_s,rate_rps\n0,1e300\n", 2, "above 1,000,000 requests/s"),
        ("window_start_s,rate_rps,iat_dist\n0,1,X\n", 2, "'x' is not G (gamma) or W (Weibull)"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(path, text, line, what):
    path.write_text(text)
    with pytest.raises(TraceError) as told:
        read(path, 0)
    assert str(told.value).startswith(f"{path}:{line}: ")
    assert what in str(told.value)


@pytest.mark.parametrize(
    "raw",
    [b"time,model\n1,\xff\n", gzip.compress(b"time\n" + b"1\n" * 99)[:-9]],
    ids=["bytes", "cut off"],
)
def test_what_is_no_text_is_told(path, raw):
    path.write_bytes(raw)
    with pytest.raises(TraceError, match="cannot read it"):
        read(path, 0)


def test_times_in_two_units_are_told(path):
    path.write_text("time,model\n0,a\n1700158623,a\n")
    with pytest.raises(TraceError, match="span 19,678 days, and 3,660 at most are replayed"):
        read(path, 0)
    assert times(read(path, 0, days=1.0), "a") == [0.0]
    path.write_text("window_start_s,rate_rps\n0,1\n1700158623,1\n")
    with pytest.raises(TraceError, match="and 3,660 at most are replayed"):
        read(path, 0)


def test_windows_out_of_order_are_as_long_as_in_order(path):
    path.write_text("window_start_s,rate_rps\n0,1\n600,1\n300,1\n900,1\n")
    assert read(path, 0).end_s("all") == 1200.0


def test_files_without_requests_are_told(path):
    path.write_text("time,model\n")
    with pytest.raises(TraceError, match="no request in it"):
        read(path, 0)
    path.write_text("window_start_s,rate_rps\n0,0\n")
    with pytest.raises(TraceError, match="no window with a request"):
        read(path, 0)
    with pytest.raises(TraceError, match="cannot read it"):
        read(path.parent / "missing.csv", 0)


# --- rates ----------------------------------------------------------------------------------------

RATES = """model,client,window_start_s,rate_rps,iat_cv,iat_dist,shape,scale_or_rate
big,0,0,0.5,1.1,G,0.8,2.5
big,0,1200,20,3.0,W,0.4,0.01
small,7,600,0.02,1.0,G,1.0,50
"""


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    path = tmp_path / "rates.csv"
    path.write_text(RATES)
    (tmp_path / "clients.csv").write_text(
        "model,client,mean_input_tokens,mean_output_tokens\nbig,0,100,30\nbig,1,300,50\nsmall,7,,\n"
    )
    return path


def test_every_client_of_a_trace_of_rates_is_a_model(rates):
    trace = read(rates, 3)
    assert isinstance(trace, RateTrace)
    assert trace.models == ("big/0", "small/7")
    assert trace.width_s == 1200.0  # the shortest step that is seen
    assert (trace.end_s("big/0"), trace.end_s("small/7")) == (2400.0, 1800.0)


def test_drawn_windows_are_requests_and_busy_ones_are_spells(rates):
    rows = read(rates, 3).requests("big/0", 2.0)
    assert rows.counts is not None
    assert [count for at_s, count in zip(rows.at_s, rows.counts, strict=True) if at_s < 1200] == (
        [1.0] * 600
    )
    assert sum(rows.counts) == 600 + 24_000
    assert len(rows) < 600 + 12_000


def test_tokens_that_nobody_knows_are_the_median_of_those_that_are_known(rates):
    trace = read(rates, 3)
    assert trace.requests("big/0", 2.0).input_tokens == 100.0
    assert trace.requests("small/7", 2.0).input_tokens == 200.0


def test_the_seed_and_the_client_tell_the_drawing(rates):
    def drawn(seed: int) -> list[float]:
        return list(read(rates, seed).requests("big/0", 2.0).at_s)

    assert drawn(3) == drawn(3) != drawn(4)
    whole = drawn(3)
    rates.write_text("".join(line for line in RATES.splitlines(True) if "small" not in line))
    assert drawn(3) == whole


# --- Lamplighter's own store ----------------------------------------------------------------------


def test_the_store_of_a_gateway(tmp_path):
    path = tmp_path / "store.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TABLE requests (time, model, input_tokens, output_tokens, priority,"
            " deadline_s, duration_s, waited_s)"
        )
        db.execute("CREATE TABLE starts (time, model, stage, seconds)")
        rows = [
            (1700000005.0, "a", 10, 20, "high", 30.0, 9.0, 6.5),
            (1700000000.0, "a", None, None, "normal", None, 2.0, 0.0),
        ]
        db.executemany("INSERT INTO requests VALUES (?,?,?,?,?,?,?,?)", rows)
        db.execute("INSERT INTO starts VALUES (1, 'a', 'total', 6.5), (1, 'a', 'loading', 6.0)")
        db.commit()
    trace = read(path, 0)
    found = trace.requests("a", 1.0)
    assert (list(found.at_s), trace.epoch_s) == ([0.0, 5.0], 1700000000.0)
    assert list(found.durations_s) == [2.0, 2.5]
    assert list(found.deadlines_s) == [0.0, 30.0]
    assert trace.starts_s == {"a": [6.5]}


def test_another_database_is_told(tmp_path):
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE cats (name)")
        db.commit()
    with pytest.raises(TraceError, match="not a store of Lamplighter's"):
        read(path, 0)


@pytest.mark.parametrize("seconds", ["NULL", "'soon'", "-5"])
def test_a_start_that_takes_no_time_is_told(tmp_path, seconds):
    path = tmp_path / "store.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE requests (time, model)")
        db.execute("INSERT INTO requests VALUES (1700000000.0, 'a')")
        db.execute("CREATE TABLE starts (time, model, stage, seconds)")
        db.execute(f"INSERT INTO starts VALUES (1, 'a', 'total', {seconds})")
        db.commit()
    with pytest.raises(TraceError, match="not a store of Lamplighter's"):
        read(path, 0)
