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
