"""`lamplighter explain`: what a configuration would do with a request, and why."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Literal

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.configured import FILE, configured
from proxy.question import headers_of, question
from proxy.stated_options import AT, STATE, Header, States, now_s, router_of
from router.errors import GatewayError
from router.explain import explain as explained
from router.explanation import Candidate, CascadeOutlook, Choice, Decision, Explanation

_NUMBER = re.compile(r"-|[-+]?[0-9.]+(e[-+][0-9]+)?")
BODY = click.Path(dir_okay=False, allow_dash=True)
WIDTH = 100  # of everything that is printed, but for lines of the file
CANDIDATES = (
    "CANDIDATE", "AS", "STATE", "WAIT S", "USD", "START USD", "GPU S", "TOKENS IN", "OUT",
)  # fmt: skip


@click.command()
@click.argument("file", type=FILE)
@click.option("--request", "body", type=BODY, required=True, help="File with its body; - stdin.")
@click.option("--header", "headers", type=Header(), multiple=True, help="One of its headers.")
@click.option("--path", help="Where it is sent; told from its body when left out.")
@STATE
@AT
@click.option("--json", "as_json", is_flag=True, help="Print the object in place of tables.")
def explain(
    file: Path,
    body: str,
    headers: Sequence[tuple[str, str]],
    path: str | None,
    states: States,
    at_s: float | None,
    as_json: bool,
) -> None:
    """Say what FILE would do with a request, rule by rule, and start nothing."""
    router = router_of(configured(file), file, states, now_s() if at_s is None else at_s)
    try:
        with click.open_file(body, "rb") as opened:
            request = question(opened.read(), headers_of(headers), path)
        found = asyncio.run(explained(router, request))
    except GatewayError as error:
        raise click.ClickException(f"{body}: {error.message}") from error
    except OSError as error:
        raise click.ClickException(f"{body}: cannot read it: {error.strerror}") from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
    else:
        _show(found)


def _show(found: Explanation) -> None:
    for part in _parts(found):
        click.echo(f"{part}\n")
    click.echo(_sentence(found))


def _parts(found: Explanation) -> Iterator[str]:
    asked = found.request
    what = "policy" if found.policy is not None else "model"
    said = f"{asked.model}: a {what}, asked at {asked.path}, {asked.bytes} bytes, {found.at}"
    yield wrapped(said)
    if found.rules:
        rows = [(r.name or str(r.rule), str(r.line), _yes(r.matched), r.why) for r in found.rules]
        yield table(("RULE", "LINE", "MATCHED", "WHY"), rows)
    if found.text:
        yield _text(found)
    if found.decision.use != "deny":
        yield wrapped(_decided(found.decision, asked.affinity))
    if found.cascade is not None:
        yield wrapped(_cascade(found.cascade))
    if found.candidates:
        yield table(CANDIDATES, list(map(_candidate, found.candidates)))
    if found.places:
        places = [(place.model, place.kind, place.why) for place in found.places]
        yield table(("PLACE", "BY", "WHY"), places)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """No wider than WIDTH: text is folded where it must be, numbers never are."""
    found = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for n, column in enumerate(columns):
        numbers = all(_NUMBER.fullmatch(row[n]) for row in rows)
        side: Literal["left", "right"] = "right" if numbers else "left"
        width = len(column)
        found.add_column(column, justify=side, no_wrap=numbers, overflow="fold", min_width=width)
    for row in rows:
        found.add_row(*map(Text, row))
    return rendered(found)


def wrapped(text: str) -> str:
    return rendered(Text(text))


def rendered(part: Table | Text) -> str:
    """Its lines, no longer than WIDTH."""
    console = Console(width=WIDTH, highlight=False, file=StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _text(found: Explanation) -> str:
    """The policy as it stands in the file, with a mark at the rule that matched."""
    matched = next((each.line for each in found.rules if each.matched), 0)
    marks = (("> " if each.line == matched else "  ", each) for each in found.text)
    return "\n".join(f"{mark}{each.line:>4} | {each.text}" for mark, each in marks)


def _decided(decision: Decision, affinity: str | None) -> str:
    said = [f"{decision.model}: {decision.why}"]
    said.append(f"priority {decision.priority}, retries {decision.retries}")
    said.append(f"may wait {_number(decision.max_wait_s)} s")
    if affinity is not None:
        said.append(f"affinity {affinity}")
    if decision.set:
        said.append("set " + ", ".join(f"{k}={v!r}" for k, v in decision.set.items()))
    if decision.mirror_to is not None:
        said.append(f"mirrored to {decision.mirror_to} in {decision.mirror_share:.3g} of all")
    return "; ".join(said)


def _cascade(cascade: CascadeOutlook) -> str:
    kept = {
        "all": "every answer of the small model is kept",
        "none": "no answer of the small model is kept",
        "from_threshold": "answers of the small model are kept from a score of"
        f" {_number(cascade.threshold)} on",
    }[cascade.keeps]
    by = [cascade.rests_on]
    if cascade.calibration != cascade.rests_on:
        by.append(cascade.calibration)
    return f"cascade: {kept} ({'; '.join(by)}); {_number(cascade.usd)} USD in all"


def _candidate(each: Candidate) -> Sequence[str]:
    share = f" {100 * each.weight:.3g}%" if each.weight is not None else ""
    return (
        each.model,
        each.role + share,
        each.state,
        _number(each.wait_s),
        _number(each.usd),
        _number(each.start_usd),
        _number(each.gpu_s),
        f"{each.input_tokens} ({each.counted_by})",
        f"{each.output_tokens} ({each.guessed_by})",
    )


def _sentence(found: Explanation) -> str:
    if found.refusal is not None:
        refusal = found.refusal
        return wrapped(f"refused with {refusal.status} {refusal.code}: {refusal.message}")
    assert found.choice is not None
    return wrapped(_chosen(found.choice))


def _chosen(choice: Choice) -> str:
    wait = "after a wait that nobody can tell"
    if choice.wait_s is not None:
        wait = f"after {_number(choice.wait_s)} s" if choice.wait_s else "at once"
    late = "" if choice.in_time is not False else ", which is longer than the caller may wait"
    start = f", and {_number(choice.start_usd)} for the start" if choice.start_usd else ""
    return f"{choice.model} answers ({choice.kind}) {wait}{late}; {_number(choice.usd)} USD{start}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
