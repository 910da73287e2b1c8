"""The requests that the rig sends, as bytes and as wrk wants them."""

import json

KEY = "sk-rig-5f0c2f7d9b4e4a31a6c8d2e07b19f3c4"  # LiteLLM refuses short ones
LARGE_BODY = 400_000  # a prompt of about 100,000 tokens
PROMPT = "Who lights the lamps in this town, and who pays for the oil? " * 6
HEADERS = {
    "content-type": "application/json",
    "authorization": f"Bearer {KEY}",
    "accept": "*/*",
    "user-agent": "lamplighter-rig",
}


def chat(model: str, prompt: str = PROMPT, **more: object) -> str:
    messages = [
        {"role": "system", "content": "You are a lamplighter and answer in one sentence."},
        {"role": "user", "content": prompt},
    ]
    return json.dumps({"model": model, "messages": messages, **more}, separators=(",", ":"))


def small_body() -> str:
    return chat("plain", temperature=0.7, max_tokens=64)


def large_body() -> str:
    words = "lamp oil wick flame street dusk dawn ladder glass brass "
    return chat("plain", words * (LARGE_BODY // len(words)), temperature=0.7, max_tokens=64)


def stream_body(pace_ms: int, chunks: int) -> str:
    return chat(f"pace-{pace_ms}ms", stream=True, max_tokens=chunks)


def post(body: str) -> bytes:
    """The whole request, for our own drivers."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    lines += [f"content-length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


def lua(body: str) -> str:
    """A script for wrk: one request over and over, and what came of it as a line of JSON."""
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in HEADERS.items())
    return f"""
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
{headers}
wrk.body = [==[{body}]==]
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRIG {{"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p99_us":%d}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
