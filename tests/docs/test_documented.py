"""What a user can see is documented, and what the documents say can be tried."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import proxy.http_protocol
import router.errors
from config.load import parse
from proxy.cli import main
from proxy.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs" / "api.md").read_text()
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [p for folder in ("proxy", "router") for p in sorted((ROOT / folder).glob("*.py"))]


def spelled(pattern: str) -> set[str]:
    return {found for path in SOURCES for found in re.findall(pattern, path.read_text())}


@pytest.mark.parametrize("family", sorted(f.name for f in Metrics().registry.collect()))
def test_metric_is_documented(family: str) -> None:
    assert re.search(rf"`{family}(_total)?`", API)


@pytest.mark.parametrize(
    "name", ["inflight_requests", "queue_depth", "instances", "endpoints_healthy"]
)
def test_gauge_of_the_fleet_is_documented(name: str) -> None:
    assert f"lamplighter_{name}" in (ROOT / "proxy" / "metrics.py").read_text()
    assert f"`lamplighter_{name}`" in API


@pytest.mark.parametrize("header", sorted(spelled(r'b"(x-lamplighter-[a-z-]+[a-z])"')))
def test_header_is_documented(header: str) -> None:
    assert f"`{header}`" in API


def codes() -> set[str]:
    classes = [*vars(router.errors).values(), *vars(proxy.http_protocol).values()]
    of_classes = {c.code for c in classes if isinstance(c, type) and hasattr(c, "code")}
    return of_classes | spelled(r'code="([a-z_]+)"')


@pytest.mark.parametrize("code", sorted(codes()))
def test_error_code_is_documented(code: str) -> None:
    assert f"`{code}`" in API


@pytest.mark.parametrize("path", sorted(spelled(r'Route\(\s*"(/admin/[^"]+)"')))
def test_admin_route_is_documented(path: str) -> None:
    stem = path.replace("{model:path}", "{model}").replace("{instance:path}", "{id}")
    assert stem.removesuffix("/{action}") in API


def options() -> list[tuple[str, str]]:
    found = []
    for name, command in main.commands.items():
        found += [
            (name, option)
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        ] or [(name, "")]
    return found


@pytest.mark.parametrize(("command", "option"), options())
def test_command_and_option_are_documented(command: str, option: str) -> None:
    row = next(line for line in API.splitlines() if line.startswith(f"| `lamplighter {command}"))
    assert option in row


def test_readme_has_the_two_commands_each_on_one_line() -> None:
    lines = README.splitlines()
    assert lines.count("pip install -e '.[demo]' && lamplighter demo") == 1
    assert lines.count("pip install -e '.[dev]' && pytest") == 1


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name
)
def test_example_passes_the_check(example: Path) -> None:
    result = CliRunner().invoke(
        main, ["check", str(example)], env={"OPENAI_API_KEY": "sk-x", "ADMIN_KEY": "long-enough"}
    )
    assert result.exit_code == 0, result.output
    assert "no mistakes" in result.output


def test_check_prints_every_mistake_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nmodels:\n  a: {cold: {comand: x}}\n  b: {}\n")
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 1
    assert f"{file}:3:" in result.output
    assert f"{file}:4:" in result.output


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def yaml_blocks() -> list[tuple[str, str]]:
    return [
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"```yaml\n(version: 1\n.*?)```", page.read_text(), re.DOTALL)
    ]


@pytest.mark.parametrize(("page", "block"), yaml_blocks())
def test_yaml_in_the_pages_is_right(page: str, block: str) -> None:
    env = {name: "long-enough-value" for name in re.findall(r"\$\{env\.(\w+)", block)}
    parse(block, page, env)
