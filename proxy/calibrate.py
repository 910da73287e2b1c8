"""`lamplighter calibrate`: learn from labels when a cascade keeps the small model's answer."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from config.policy import Use
from config.schema import Config
from policies.calibration import ABOVE_ALL, Calibration, encode
from proxy.configured import FILE, configured
from proxy.outputs import writing
from router.calibrate import labelled, stored
from router.calibrate.files import neighbours_beside, write
from router.calibrate.labelled import Labelled

if TYPE_CHECKING:
    from router.calibrate.report import Report

TELLS_NOTHING = 0.6  # an AUROC below
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("file", type=FILE)
@click.option("--data", type=FILE, help="Labelled answers, one JSON object a line.")
@click.option("--store", type=FILE, help="Take the labels that a gateway gathered in this store.")
@click.option("--policy", help="Whose cascade; may be left out if FILE has only one.")
@click.option("--max-wrong", type=SHARE, help="Show what this bound means; else accept.max_wrong.")
@click.option("--neighbours", is_flag=True, help="Learn from the prompts too, before any answer.")
@click.option("--out", type=FILE, help="File to write; else accept.calibration of the policy.")
def calibrate(
    file: Path,
    data: Path | None,
    store: Path | None,
    policy: str | None,
    max_wrong: float | None,
    neighbours: bool,
    out: Path | None,
) -> None:
    """Fit the judge of a cascade in FILE to labelled answers, and write what was fitted."""
    if data is None and store is None:
        raise click.UsageError("--data or --store: there is nothing to learn from")
    name, use = _cascade(configured(file, files=False), policy)
    assert use.cascade is not None
    accept = use.accept
    target = out or (Path(accept.calibration) if accept and accept.calibration else None)
    if target is None:
        raise click.UsageError("--out: say which file to write")
    bound = max_wrong or (accept.max_wrong if accept else None)
    beside = neighbours_beside(target) if neighbours else None
    try:
        labels = _labels(data, store, name, *use.cascade)
        fitted, report = _learn()(labels, (name, *use.cascade), bound, beside)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    _show(fitted, report, bound)
    with writing(target):
        write(target, encode(fitted))
    click.echo(f"\nwritten to {target}")
    if report.auroc is not None and report.auroc < TELLS_NOTHING:
        click.echo(
            f"warning: an AUROC of {report.auroc:.2f} says that these signals hardly tell right"
            " answers from wrong ones (0.5: not at all)",
            err=True,
        )


def _learn() -> "Callable[..., tuple[Calibration, Report]]":
    """Imported when it is needed, so that the help of all commands needs no extra."""
    try:
        from router.calibrate.learn import learn
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("numpy", "scipy"):
            raise
        raise click.ClickException(
            f"calibrate needs {error.name}: pip install 'lamplighter[calibrate]'"
        ) from error
    return learn


def _cascade(config: Config, wanted: str | None) -> tuple[str, Use]:
    """The policy's first cascade."""
    found = {name: use for name in config.policies if (use := _first_cascade(config, name))}
    names = ", ".join(found)
    if not found:
        raise click.UsageError("the file has no policy with a cascade")
    if wanted is None and len(found) > 1:
        raise click.UsageError(f"--policy: which one? There are cascades in {names}")
    name = wanted or next(iter(found))
    if name not in found:
        raise click.UsageError(f"--policy: there is no cascade in {name}, but in {names}")
    return name, found[name]


def _first_cascade(config: Config, policy: str) -> Use | None:
    uses = (rule.use for rule in config.policies[policy].first_match)
    return next((use for use in uses if use is not None and use.cascade is not None), None)


def _labels(
    data: Path | None, store: Path | None, policy: str, small: str, large: str
) -> list[Labelled]:
    found: list[Labelled] = []
    if data is not None:
        try:
            with data.open("rb") as lines:
                found += labelled.read(lines, policy)
        except OSError as error:
            raise ValueError(f"{data}: cannot read it: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{data}: {error}") from error
    if store is not None:
        found += stored.read(store, policy, small, large)
    return found


# --- what is printed ----------------------------------------------------------------------------


def _show(fitted: Calibration, report: "Report", max_wrong: float | None) -> None:
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_column(style="dim")
    for row in _rows(fitted, report, max_wrong):
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def _rows(
    fitted: Calibration, report: "Report", max_wrong: float | None
) -> Iterable[tuple[str, str, str]]:
    yield "labels", f"{report.labels}", f"{report.compared} of them of both models' answers"
    weights = sorted(fitted.weights, key=lambda each: -each.weight)
    yield "signals", ", ".join(f"{each.signal} {each.weight:.2f}" for each in weights), ""
    yield (
        "AUROC",
        _number(report.auroc),
        "of P(right), by five-fold cross-validation, like the rest",
    )
    yield "ECE", _number(report.ece), "how far P(right) is off"
    if max_wrong is None:
        why = f"to recover {fitted.recovered:.0%} of the large model's lead in most further samples"
    else:
        why = f"max_wrong {max_wrong:g}, {fitted.confidence:.0%} sure"
    yield "kept from score", _score(report.threshold), why
    yield "escalated", f"{report.escalated:.1%}", "of requests"
    yield "recovered", _number(report.recovered), "of the large model's lead"
    yield "wrongly kept", f"{report.wrong:.1%}", "of requests, where the large model is right"
    yield "cost", _number(report.cost), "relative to always asking the large model"
    early = fitted.early
    yield "streams", "wait for the whole answer" if early is None else "looked at early", ""


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _score(value: float) -> str:
    return "no answer is kept" if value >= ABOVE_ALL else f"{value:.3g}"
