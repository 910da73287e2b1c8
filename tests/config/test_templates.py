import pytest

from config.templates import check_placeholders, placeholders, render

VALUES = {"port": "8000", "model": "a/b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--port={port}", "--port=8000"),
        ("{model}:{port}", "a/b:8000"),
        ("{{port}}", "{port}"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ('{"p":{port}}', '{"p":8000}'),
        ("{{ messages }} {} { {{ }}", "{{ messages }} {} { {{ }}"),
        ("${port}", "$8000"),
    ],
)
def test_render_fills_in_words_in_braces_only(text: str, expected: str) -> None:
    assert render(text, VALUES) == expected


def test_render_does_not_fill_in_what_it_filled_in() -> None:
    assert render("{model}", {"model": "{port}", "port": "1"}) == "{port}"


def test_placeholders_leaves_out_the_escaped_ones() -> None:
    assert placeholders("{port} {{host}} {x}") == {"port", "x"}


def test_an_unknown_placeholder_gets_a_near_one() -> None:
    with pytest.raises(ValueError, match=r"unknown placeholder \{prot\}; did you mean \{port\}\?"):
        check_placeholders("{prot}", quote=True)


def test_an_unknown_placeholder_in_a_secret_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="^contains an unknown placeholder in braces; known are"):
        check_placeholders("{hunter2}", quote=False)
