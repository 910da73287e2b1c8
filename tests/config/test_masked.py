import json

from config.load import parse
from config.masked import masked

TEXT = """
version: 1
admin: {key: hunter2-admin}
defaults: {timeouts: {idle: never}}
models:
  a:
    hot: {urls: [{url: http://h/v1, key: hunter2}]}
    api: {url: http://h/v1, key: hunter2}
    cold:
      command: run --api-key hunter2 --token=hunter2 HF_TOKEN=hunter2 --x --port {port} http://u:hunter2@h/x
      env: {HF_TOKEN: hunter2, PROXY: "http://u:hunter2@h/x", PLAIN: shown}
      idle: 90s
"""


def test_masked_shows_all_but_secrets() -> None:
    out = masked(parse(TEXT, "f", {}))
    assert "hunter2" not in json.dumps(out, allow_nan=False)
    cold = out["models"]["a"]["cold"]
    assert cold["command"] == [
        "run",
        "--api-key",
        "**********",
        "--token=**********",
        "HF_TOKEN=**********",
        "--x",
        "--port",
        "{port}",
        "http://h/x",
    ]
    assert cold["env"] == {"HF_TOKEN": "**********", "PROXY": "http://h/x", "PLAIN": "shown"}
    assert cold["idle"] == "1m30s"
    assert out["defaults"] == {"timeouts": {"idle": "never"}}
    assert out["server"]["max_body"] == "32MiB"


def test_masked_gives_what_holds_for_each_model() -> None:
    settings = masked(parse(TEXT, "f", {}))["models"]["a"]["settings"]
    assert settings["timeouts"] == {
        "connect": "5s",
        "first_byte": "10m",
        "idle": "never",
        "total": "never",
    }
    assert settings["retries"] == 2


PLANNED = """
version: 1
store: {path: state.db}
budget: {usd_per_day: 50}
devices: {gpu0: {memory: 80GiB}}
defaults: {placement: {class: batch}}
models:
  a:
    placement: {dwell: 1h}
    cold:
      command: run {port}
      gpu_hour: 2.5
      device: gpu0
      memory: 40GiB
      start_time: {p50: 20s, p90: 40s}
      sleep: {level_1: {share: 0.1, wake: 2s}}
      warm: [{at: "Mon-Wed 8:30", tz: Europe/Berlin, for: 90m}]
  b: {api: {url: http://h/v1}}
"""


def test_masked_is_what_a_file_may_say() -> None:
    out = masked(parse(PLANNED, "f", {}))
    for model in out["models"].values():
        del model["settings"]
    again = parse(json.dumps(out), "f", {})
    assert again == parse(PLANNED, "f", {})
    assert out["store"] == {"path": "state.db", "requests": "14d"}
    cold = out["models"]["a"]["cold"]
    assert cold["warm"] == [{"at": "Mon,Tue,Wed 08:30", "tz": "Europe/Berlin", "for": "1h30m"}]
    assert cold["idle"] == "clamped"


def test_masked_leaves_out_maps_in_which_nothing_is_set() -> None:
    out = masked(parse(PLANNED, "f", {}))
    plain = out["models"]["b"]
    assert not {"placement", "budget", "queue", "timeouts", "keepalive"} & plain.keys()
    assert out["defaults"] == {"placement": {"class": "batch"}}
    assert "budget" not in masked(parse(TEXT, "f", {}))
    assert "sleep" not in masked(parse(TEXT, "f", {}))["models"]["a"]["cold"]


def test_masked_gives_the_placement_that_holds() -> None:
    placement = masked(parse(PLANNED, "f", {}))["models"]["a"]["settings"]["placement"]
    assert (placement["class"], placement["dwell"], placement["every"]) == ("batch", "1h", "5m")
    assert "pin" not in placement


def test_masked_hides_what_policies_want_of_secret_headers() -> None:
    text = """
version: 1
models: {a: {hot: {urls: [http://h/v1]}}}
policies:
  chat:
    first_match:
      - when:
          header: {x-api-key: hunter2, x-team: red}
          not: {any_of: [{header: {authorization: hunter2}}]}
        use: a
      - use: a
"""
    out = masked(parse(text, "f", {}))
    assert "hunter2" not in json.dumps(out)
    header = out["policies"]["chat"]["first_match"][0]["when"]["header"]
    assert header == {"x-api-key": ["**********"], "x-team": ["red"]}
