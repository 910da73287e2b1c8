import math
import zoneinfo

import pytest
from pydantic import TypeAdapter, ValidationError

from config.fields import FilePath, Idle, TimeZone, api_url, base_url, looks_secret, split_command
from config.scalars import FilledText


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("https://h/prefix/v1/", "https://h/prefix/v1"),
        ("http://[::1]:80/v1beta", "http://[::1]:80/v1beta"),
    ],
)
def test_base_url_of_a_server_is_trimmed(written: str, expected: str) -> None:
    assert base_url(written) == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("http://h:8000", "must end in /v1; did you mean http://h:8000/v1?"),
        ("http://h/v1/chat/completions", "must be a base URL; leave out /chat/completions"),
        ("ftp://h/v1", "must be a URL that begins with http:// or https:// and a host"),
        ("h:8000/v1", "must be a URL that begins with http:// or https:// and a host"),
        ("http:///v1", "must be a URL that begins with http:// or https:// and a host"),
        (
            "http://u:hunter2@h/v1",
            "must not carry a user name or password; put the secret under key",
        ),
        ("http://h/v1?k=1", "must not carry a query or fragment (? or #)"),
        ("http://h/v1#", "must not carry a query or fragment (? or #)"),
        ("http://h:99999/v1", "is not a URL: its host or port cannot be read"),
        ("http://[h/v1", "is not a URL: its host or port cannot be read"),
        ("http://h h/v1", "is not a URL: it has a character or a port that a URL cannot have"),
        ("http://h:0/v1", "is not a URL: it has a character or a port that a URL cannot have"),
        ("http://hé/v1", "is not a URL: it has a character or a port that a URL cannot have"),
        (7, "must be a URL, such as http://10.0.0.4:8000/v1"),
    ],
)
def test_base_url_that_cannot_be_used_says_why(written: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        base_url(written)
    assert str(caught.value) == message


def test_base_url_from_the_environment_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="^must end in /v1$"):
        base_url(FilledText("http://secret"))


def test_api_url_may_end_in_any_path() -> None:
    assert api_url("https://h/v1beta/openai/") == "https://h/v1beta/openai"
    with pytest.raises(ValueError, match=r"must have a path; did you mean https://h/v1\?"):
        api_url("https://h/")
    with pytest.raises(ValueError, match="leave out /models"):
        api_url("https://h/v1/models")


def test_a_command_in_one_string_is_split_like_a_shell_does() -> None:
    written = "vllm serve \\\n  'a b' --x='{\"a\": {\"b\": 1}}' #1"
    assert split_command(written) == ["vllm", "serve", "a b", '--x={"a": {"b": 1}}', "#1"]


@pytest.mark.parametrize("written", ['x {"a": 1}', 'x --c={"a":1}'])
def test_json_that_would_lose_its_quotes_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="put single quotes around the argument"):
        split_command(written)


@pytest.mark.parametrize("written", ["", "  ", [], [""]])
def test_a_command_without_a_program_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="must name a program to run"):
        split_command(written)


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(ValueError, match="a quote is opened and not closed"):
        split_command("x 'y")


def test_secret_names_are_told_from_others() -> None:
    assert all(map(looks_secret, ["HF_TOKEN", "OPENAI_API_KEY", "db_password", "--api-key"]))
    assert not any(map(looks_secret, ["VLLM_CPU_KVCACHE_SPACE", "--port"]))


IDLE = TypeAdapter(Idle)


@pytest.mark.parametrize(
    ("written", "read", "spelled"),
    [
        ("90s", 90.0, "1m30s"),
        (90, 90.0, "1m30s"),
        ("never", math.inf, "never"),
        ("clamped", "clamped", "clamped"),
        (FilledText("ski_rental"), "ski_rental", "ski_rental"),
        ("empirical", "empirical", "empirical"),
    ],
)
def test_idle_is_a_duration_never_or_a_rule(written: object, read: object, spelled: str) -> None:
    value = IDLE.validate_python(written)
    assert value == read
    assert type(value) in (float, str)
    assert IDLE.dump_python(value, mode="json") == spelled


@pytest.mark.parametrize("written", ["", "Clamped", "0s", -1, True, None, [], "fixed"])
def test_idle_that_is_neither_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        IDLE.validate_python(written)


def test_time_zones_are_those_of_the_tz_database() -> None:
    zone = TypeAdapter(TimeZone)
    assert zone.validate_python("Europe/Berlin") == "Europe/Berlin"
    for wrong in ("", "Europe", "../../etc/passwd", "/etc/localtime", "x" * 5000, "a\0b", "é"):
        with pytest.raises(ValidationError, match="is no time zone"):
            zone.validate_python(wrong)


def test_a_time_zone_does_not_need_a_database_of_the_system() -> None:
    zoneinfo.ZoneInfo.clear_cache()
    zoneinfo.reset_tzpath(to=[])
    try:
        assert TypeAdapter(TimeZone).validate_python("Pacific/Chatham") == "Pacific/Chatham"
    finally:
        zoneinfo.reset_tzpath()


def test_the_path_of_a_file_is_text() -> None:
    path = TypeAdapter(FilePath)
    assert path.validate_python("state.db") == "state.db"
    for wrong in ("", "a\0b"):
        with pytest.raises(ValidationError, match="must be the path of a file"):
            path.validate_python(wrong)
