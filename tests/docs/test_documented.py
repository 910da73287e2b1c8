"""What a user can see is documented, and what the documents say can be tried."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from prometheus_client import Metric

import router.errors
from config.load import parse
from proxy.cli import main
from proxy.metrics import Metrics
from proxy.tables import Counters, Histograms
from router.errors import GatewayError
from router.measures import Measures

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs" / "api.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("proxy", "router", "backends", "policies", "config")
SOURCES = [p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))]


def spelled(pattern: str) -> set[str]:
    """What the pattern finds in the source."""
    return {found for path in SOURCES for found in re.findall(pattern, path.read_text())}


def table(page: str, *columns: str) -> list[dict[str, str]]:
    """The rows of the table that has just these columns."""
    head = "| " + " | ".join(columns) + " |\n"
    lines = page.split(head, 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [dict(zip(columns, row, strict=True)) for row in cells]


def words(text: str) -> list[str]:
    return [word for word in text.split(", ") if word]


# --- metrics ------------------------------------------------------------------------------------


def families() -> list[Metric]:
    metrics = Metrics()
    fleet: Any = SimpleNamespace(snapshot=SimpleNamespace(backends={}), devices=dict)
    metrics.watch(fleet, lambda model: 0, lambda model: 0)
    metrics.watch_measures(Measures(lambda: 0.0, 0.0))
    return list(metrics.registry.collect())


METRICS = {
    row["metric"].strip("`"): row for row in table(API, "metric", "type", "labels", "meaning")
}


def exposed(family: Metric) -> str:
    """The name as it stands on the page: the client library takes `_total` off a counter's."""
    return f"{family.name}_total" if family.type == "counter" else family.name


@pytest.mark.parametrize("family", families(), ids=exposed)
def test_metric_is_documented_with_its_type(family: Metric) -> None:
    assert METRICS[exposed(family)]["type"] == family.type


def test_no_metric_is_documented_that_is_not_there() -> None:
    assert set(METRICS) == {exposed(family) for family in families()}


def test_labels_of_metrics_are_documented() -> None:
    metrics = vars(Metrics()).values()
    declared = {m._name: m._labelnames for m in metrics if hasattr(m, "_labelnames")}
    declared |= {t.name: t.labels for t in metrics if isinstance(t, Counters | Histograms)}
    assert len(declared) >= 10
    for name, labels in declared.items():
        row = METRICS.get(name) or METRICS[f"{name}_total"]
        assert words(row["labels"]) == list(labels)


# --- headers, errors, routes --------------------------------------------------------------------


def test_headers_are_those_that_are_documented() -> None:
    sent = spelled(r"(x-lamplighter-[a-z-]+[a-z])")
    rows = [*table(API, "header", "value"), *table(API, "header", "meaning")]
    documented = {row["header"].strip("`") for row in rows}
    assert sent == {name for name in documented if name.startswith("x-lamplighter-")}


def error_classes() -> list[type[GatewayError]]:
    classes = list(vars(router.errors).values())
    return [c for c in classes if isinstance(c, type) and issubclass(c, GatewayError)]


ERRORS = table(API, "status", "type", "code", "when")
CODES = {row["code"].strip("`") for row in ERRORS}


@pytest.mark.parametrize("error", error_classes(), ids=lambda c: c.__name__)
def test_error_is_documented_with_status_type_and_code(error: type[GatewayError]) -> None:
    rows = [(row["status"], row["type"], row["code"]) for row in ERRORS]
    assert (str(error.status), f"`{error.type}`", f"`{error.code}`") in rows


def test_error_codes_are_those_that_are_documented() -> None:
    given = {error.code for error in error_classes()} | spelled(r'code="([a-z_]+)"')
    assert given == CODES


@pytest.mark.parametrize("path", sorted(spelled(r'Route\(\s*"(/[^"]*)"')))
def test_route_is_documented(path: str) -> None:
    model = "{model}" if path.startswith("/admin") else "{id}"
    path = path.replace("{model:path}", model).replace("{instance:path}", "{id}")
    actions = ["drain", "stop", *(["start"] if "{model}" in path else [])]
    for action in actions if "{action}" in path else [""]:
        wanted = path.replace("{action}", action)
        assert re.search(rf"`(GET|POST) {re.escape(wanted)}`", API), wanted


# --- commands -----------------------------------------------------------------------------------

COMMANDS = click.Context(main)


@pytest.mark.parametrize("name", main.list_commands(COMMANDS))
def test_command_is_documented_with_just_its_options(name: str) -> None:
    (row,) = (
        row
        for row in table(API, "command", "options", "exit")
        if row["command"].startswith(f"`lamplighter {name}")
    )
    command = main.get_command(COMMANDS, name)
    assert command is not None
    options = {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    assert set(re.findall(r"`(--[a-z-]+)`", row["options"])) == options
    assert f"`lamplighter {name}" in README


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


def test_demo_says_what_is_wrong_as_it_is_written(tmp_path: Path) -> None:
    missing = str(tmp_path / "model[demo].gguf")
    result = CliRunner().invoke(main, ["demo"], env={"LAMPLIGHTER_DEMO_MODEL": missing})
    assert result.exit_code == 1
    assert f"LAMPLIGHTER_DEMO_MODEL names {missing}, which is not a file" in result.output


# --- pages --------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" in target:
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def yaml_blocks() -> list[tuple[str, str]]:
    return [
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"```yaml\n(version: 1\n.*?)```", page.read_text(), re.DOTALL)
    ]


def test_readme_and_configuration_begin_with_a_whole_file() -> None:
    assert {"README.md", "configuration.md"} <= {page for page, _ in yaml_blocks()}


@pytest.mark.parametrize(("page", "block"), yaml_blocks())
def test_yaml_in_the_pages_is_right(page: str, block: str) -> None:
    env = {name: "long-enough-value" for name in re.findall(r"\$\{env\.(\w+)", block)}
    parse(block, page, env)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_stands_in_the_design(source: Path) -> None:
    family = re.sub(r"^upstream.*", "upstream*.py", source.name)
    assert source.name == "__init__.py" or f"`{family}`" in DESIGN
