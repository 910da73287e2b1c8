"""Plain answers of a cascade: who answers, and what the caller sees of it."""

import sqlite3
from typing import Any

import httpx2
import pytest

from tests.cascades.scenes import SURE, UNSURE, logprobs, whole
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import answer, error
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, counted


def ask(gateway: GatewayProcess, policy: str = "plain", **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    body = {"model": policy, "messages": HELLO, **more}
    return gateway.http.post("/v1/chat/completions", json=body, headers=headers)


def said(response: httpx2.Response) -> str:
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


def test_sure_answer_of_small_is_kept(gateway: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(whole("Paris it is"))
    response = ask(gateway)
    assert said(response) == "Paris it is"
    assert response.headers["x-lamplighter-cascade"] == "kept"
    assert response.headers["x-lamplighter-model"] == "small"
    assert response.headers["x-lamplighter-policy"] == "plain"
    assert len(fakes.posts) == 1


def test_unsure_answer_is_escalated_and_the_caller_sees_the_large_one_alone(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(whole("Rome perhaps", UNSURE), whole("Paris", None))
    response = ask(gateway)
    assert said(response) == "Paris"
    assert response.headers["x-lamplighter-cascade"] == "escalated"
    assert response.headers["x-lamplighter-model"] == "large"
    assert response.headers["x-lamplighter-attempts"] == "1"
    small, large = (post.json for post in fakes.posts)
    assert (small["logprobs"], small["top_logprobs"]) == (True, 5)
    assert "logprobs" not in large


def test_logprobs_that_nobody_asked_for_are_taken_out(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(whole("Paris it is"))
    assert ask(gateway, logprobs=False).json()["choices"][0]["logprobs"] is None
    assert fakes.last.json["logprobs"] is True


def test_logprobs_that_the_caller_asked_for_stay(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(whole("Paris it is"))
    choice = ask(gateway, logprobs=True).json()["choices"][0]
    assert choice["logprobs"] == logprobs(["Paris", " it", " is"], SURE)
    assert "top_logprobs" not in fakes.last.json


def test_compression_is_not_asked_of_an_answer_that_is_judged(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(whole("Paris it is"))
    ask(gateway, headers={"accept-encoding": "gzip"})
    assert fakes.last.header("accept-encoding") == "identity"


def test_json_that_breaks_its_schema_is_escalated_however_sure(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    fakes.script(whole('{"n": "one"}'), whole('{"n": 1}'))
    response = ask(gateway, response_format=form)
    assert said(response) == '{"n": 1}'
    fakes.reset()
    fakes.script(whole('{"n": 2}'))
    assert ask(gateway, response_format=form).headers["x-lamplighter-cascade"] == "kept"


def test_schema_that_points_elsewhere_is_not_fetched(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"$ref": f"{fakes.urls[0]}/schema"}},
    }
    fakes.script(whole("{}"))
    ask(gateway, response_format=form)
    assert not [r for r in fakes.requests if "schema" in r.target]


def test_call_of_a_tool_that_was_not_offered_is_escalated(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    call = {"id": "1", "type": "function", "function": {"name": "wether", "arguments": "{}"}}
    fakes.script(whole("sure", tool_calls=[call]), whole("Paris", None))
    assert said(ask(gateway, tools=tools)) == "Paris"


def test_what_cannot_be_judged_goes_to_the_large_model(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    assert ask(gateway, n=2).headers["x-lamplighter-cascade"] == "direct"
    body = {"model": "plain", "input": "hello"}
    response = gateway.http.post("/v1/responses", json=body)
    assert response.headers["x-lamplighter-model"] == "large"


@pytest.mark.parametrize(
    ("body", "course"),
    [
        ({"prompt": ["one", "two"]}, "direct"),
        ({"prompt": [[1, 2], [3]]}, "direct"),
        ({"prompt": "one", "echo": True}, "direct"),
        ({"prompt": ["one"]}, "escalated"),
        ({"prompt": [1, 2, 3], "echo": False}, "escalated"),
    ],
)
def test_completions_are_judged_that_answer_one_prompt(
    gateway: GatewayProcess, fakes: FakeServers, body: dict[str, Any], course: str
) -> None:
    choices = [{"index": 0, "text": "one", "finish_reason": "stop", "logprobs": None}]
    fakes.script(*[answer({"choices": choices})] * 2)
    response = gateway.http.post("/v1/completions", json={"model": "plain", **body})
    assert response.headers["x-lamplighter-cascade"] == course


def test_text_completions_are_judged(gateway: GatewayProcess, fakes: FakeServers) -> None:
    sure = {"tokens": ["Paris"], "token_logprobs": [SURE], "top_logprobs": [{"Paris": SURE}]}
    choice = {"index": 0, "text": "Paris", "finish_reason": "stop", "logprobs": sure}
    fakes.script(answer({"id": "c", "object": "text_completion", "choices": [choice]}))
    body = {"model": "plain", "prompt": "The capital of France is"}
    response = gateway.http.post("/v1/completions", json=body)
    assert response.headers["x-lamplighter-cascade"] == "kept"
    assert response.json()["choices"][0] == {**choice, "logprobs": None}
    assert fakes.last.json["logprobs"] == 5


def test_both_models_count_their_tokens_and_their_requests(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    def tokens(model: str) -> float:
        return counted(gateway, model, "tokens", "type").get("output", 0.0)

    before = tokens("small"), tokens("large")
    fakes.script(whole("Rome perhaps", UNSURE), whole("Paris", None))
    ask(gateway)
    assert (tokens("small"), tokens("large")) == (before[0] + 7, before[1] + 7)
    for name in ("small", "large"):
        assert gateway.model(name)["in_flight"] == 0


def test_self_check_and_samples_are_asked_of_the_small_model(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(whole("Paris it is"))
    response = ask(gateway, "doubting", seed=3)
    posts = [post.json for post in fakes.posts]
    sampled = [post for post in posts if post.get("temperature") == 0.8]
    checks = [post for post in posts if post.get("max_tokens") == 1]
    assert (len(sampled), len(checks)) == (2, 1)
    assert "seed" not in sampled[0]
    assert checks[0]["messages"][1] == {"role": "assistant", "content": "Paris it is"}
    assert said(response) == "Paris it is"


def test_long_answer_is_judged_whole(gateway: GatewayProcess, fakes: FakeServers) -> None:
    text = "word " * 15_000
    fakes.script(whole(text))
    response = ask(gateway)
    assert response.headers["x-lamplighter-cascade"] == "kept"
    assert said(response) == text


def test_logprobs_beyond_all_bounds_do_no_harm(gateway: GatewayProcess, fakes: FakeServers) -> None:
    odd = whole("yes", 1e308)
    fakes.script(whole("Paris it is", 1e308), odd, odd, odd)
    assert ask(gateway, "doubting").status_code == 200


def test_verdict_is_counted_by_policy(gateway: GatewayProcess, fakes: FakeServers) -> None:
    def kept() -> float:
        page = gateway.http.get("/metrics").text
        name = 'lamplighter_cascades_total{policy="plain",verdict="kept"} '
        return sum(float(line[len(name) :]) for line in page.splitlines() if line.startswith(name))

    before = kept()
    fakes.script(whole("Paris it is"))
    ask(gateway)
    assert kept() == before + 1


def test_error_of_both_is_the_large_ones(gateway: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(error(400, "small does not like it"), error(400, "large neither"))
    response = ask(gateway)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "large neither")


# --- labels -------------------------------------------------------------------------------------


def labels(gateway: GatewayProcess, policy: str) -> list[tuple[Any, ...]]:
    path = gateway.file.parent / "store"
    rows = "SELECT source, kept, small_right, large_right FROM labels WHERE policy = ?"
    with sqlite3.connect(path) as database:
        return database.execute(rows, (policy,)).fetchall()


def test_kept_answer_is_labelled_by_the_large_model(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(whole("Paris it is"), whole("PARIS, it is.", None))
    assert said(ask(gateway, "labelled")) == "Paris it is"
    eventually(lambda: labels(gateway, "labelled") == [("exact", 1, 1, 1)], what="the label")
    fakes.script(whole("Rome it is"), whole("Paris", None))
    ask(gateway, "labelled")
    eventually(lambda: ("exact", 1, 0, 1) in labels(gateway, "labelled"), what="the second label")


def test_answers_that_differ_are_compared_by_the_large_model(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    top = [
        {"token": "Yes", "logprob": -0.2, "bytes": None},
        {"token": " no", "logprob": -2.0, "bytes": None},
    ]
    verdict = {"content": [{**top[0], "top_logprobs": top}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Yes"}, "logprobs": verdict}
    fakes.script(
        whole("Paris it is"), whole("The town of Paris", None), answer({"choices": [choice]})
    )
    ask(gateway, "judged")
    eventually(lambda: labels(gateway, "judged") == [("judge", 1, 1, 1)], what="the label")
    question = fakes.last.json["messages"][0]["content"]
    assert "The town of Paris" in question
    assert "Paris it is" in question


def test_broken_json_is_a_wrong_answer_and_nobody_is_asked(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(whole('{"n": '), whole("{}"))
    ask(gateway, "labelled", response_format={"type": "json_object"})
    eventually(lambda: ("schema", 0, 0, None) in labels(gateway, "labelled"), what="the label")
    assert len(fakes.posts) == 2


def test_person_says_whether_small_was_right(gateway: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(whole("Rome it is"))
    ask(gateway, headers={"x-request-id": "said-by-a-person"})
    body = {"request_id": "said-by-a-person", "right": False}
    assert gateway.admin("POST", "/feedback", json=body).json()["policy"] == "plain"
    eventually(lambda: ("person", 1, 0, None) in labels(gateway, "plain"), what="the label")
    again = gateway.admin("POST", "/feedback", json=body)
    assert again.status_code == 404
    assert gateway.admin("POST", "/feedback", json={"right": 1}).status_code == 400
    assert gateway.http.post("/admin/feedback", json=body).status_code == 403


def test_of_two_requests_with_one_id_nobody_says_which_was_right(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    for _ in range(2):
        fakes.script(whole("Rome it is"))
        ask(gateway, headers={"x-request-id": "chosen-twice"})
    body = {"request_id": "chosen-twice", "right": True}
    assert gateway.admin("POST", "/feedback", json=body).status_code == 404


def test_store_holds_a_row_for_each_model_and_no_text(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    path = gateway.file.parent / "store"
    secret = "never-to-be-stored"
    fakes.script(whole("Rome perhaps", UNSURE), whole("Paris", None))
    gateway.http.post(
        "/v1/chat/completions",
        json={"model": "plain", "messages": [{"role": "user", "content": secret}]},
    )

    def rows() -> list[tuple[str, str]]:
        with sqlite3.connect(path) as database:
            last = "SELECT model, reasons FROM requests ORDER BY time DESC LIMIT 2"
            return [(str(model), str(reasons)) for model, reasons in database.execute(last)]

    found = eventually(lambda: len(rows()) == 2 and rows(), what="the rows")
    assert {model for model, _ in found} == {"small", "large"}
    files = [p for p in path.parent.iterdir() if p.name.startswith("store")]
    assert not any(secret.encode() in file.read_bytes() for file in files)
