"""`lamplighter diff`: which stored requests another configuration would send elsewhere."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from proxy.configured import FILE, configured
from proxy.explain import table, wrapped
from proxy.stated_options import AT, STATE, States, now_s, router_of
from proxy.stored_requests import NotStored, stored_requests
from router.elsewhere import Compared, Side, Sums, side, sums
from router.routing import Router
from router.row_facts import NotTold

SOME_MOVED = 1


class Trouble(click.ClickException):
    """A file cannot be used: told apart from files that differ, as diff(1) does."""

    exit_code = 2


class Untold(Struct, frozen=True):
    """A request of which nobody can tell where it would go."""

    number: int
    asked: str
    why: str


@click.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--requests", "file", type=FILE, required=True, help="JSON lines, or a store.")
@STATE
@AT
@click.option("--json", "as_json", is_flag=True, help="Print all figures in place of tables.")
def diff(
    old: Path, new: Path, file: Path, states: States, at_s: float | None, as_json: bool
) -> None:
    """List the requests that NEW would send elsewhere than OLD, and what that would change.

    Exits with 0 if there is none, with 1 if there are some, with 2 if a file cannot be used.
    """
    try:
        routers = _routers(old, new, states)
        compared, untold = asyncio.run(_compare(routers, file, at_s))
    except NotStored as error:
        raise Trouble(str(error)) from error
    except click.ClickException as error:
        raise Trouble(error.message) from error
    moved = [each for each in compared if each.moved]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_figures(compared, moved, untold))))
    else:
        for part in _parts(compared, moved, untold):
            click.echo(part)
    sys.exit(SOME_MOVED if moved else 0)


def _routers(old: Path, new: Path, states: States) -> tuple[Router, Router]:
    """Each with the states of the models that it has; one of the two must have each."""
    configs = [configured(file) for file in (old, new)]
    routers = []
    for file, config, other in zip((old, new), configs, reversed(configs), strict=True):
        own = [s for s in states if config.resolve(s[0]) or not other.resolve(s[0])]
        routers.append(router_of(config, file, own, now_s()))
    return routers[0], routers[1]


async def _compare(
    routers: tuple[Router, Router], file: Path, at_s: float | None
) -> tuple[list[Compared], list[Untold]]:
    """`at_s` in place of the time at which each request came."""
    compared, untold, started_s = [], [], now_s()
    for each in stored_requests(file):
        request, came_s = each.request, each.at_s if each.at_s is not None else started_s
        at = came_s if at_s is None else at_s
        asked = request.body.model if request.body is not None else ""
        try:
            sides = [await side(router, request, at, each.row) for router in routers]
        except NotTold as error:
            untold.append(Untold(each.number, asked, str(error)))
            continue
        compared.append(Compared(each.number, asked, *sides))
    return compared, untold


# --- for programs ---------------------------------------------------------------------------------


def _figures(
    compared: Sequence[Compared], moved: Sequence[Compared], untold: Sequence[Untold]
) -> dict[str, Any]:
    return {
        "moved": [
            {**msgspec.to_builtins(each), "more_usd": each.more_usd, "longer_s": each.longer_s}
            for each in moved
        ],
        "untold": untold,
        "sum": {"moved": sums(moved), "all": sums(compared)},
    }


# --- for people -----------------------------------------------------------------------------------


def _parts(
    compared: Sequence[Compared], moved: Sequence[Compared], untold: Sequence[Untold]
) -> Iterator[str]:
    if moved:
        yield table(("REQUEST", "ASKED", "OLD", "NEW", "USD", "WAIT S"), [_row(m) for m in moved])
        yield ""
        yield table(("REQUESTS", "OLD", "NEW", "USD", "WAIT S"), _ways(moved))
        yield ""
    count = f"{len(moved)} of {len(compared)} requests go elsewhere"
    yield wrapped(f"{count}{_change(sums(moved)) if moved else ''}.")
    if compared:
        yield wrapped(f"All together{_change(sums(compared))}.")
    for why in sorted({each.why for each in untold}):
        many = [each for each in untold if each.why == why]
        yield wrapped(f"Of {len(many)} more nobody can tell: {why}.")


def _row(each: Compared) -> Sequence[str]:
    old, new = _to(each.old), _to(each.new)
    return (str(each.number), each.asked, old, new, _more(each.more_usd), _more(each.longer_s))


def _to(one: Side) -> str:
    return one.to if one.rule is None else f"{one.to}, rule {one.rule}"


def _ways(moved: Sequence[Compared]) -> list[Sequence[str]]:
    """The same by where they went and go, the most frequent first."""
    by_way: dict[tuple[str, str], list[Compared]] = {}
    for each in moved:
        by_way.setdefault((each.old.to, each.new.to), []).append(each)
    found: list[Sequence[str]] = []
    for (old, new), several in sorted(by_way.items(), key=lambda item: -len(item[1])):
        sum_ = sums(several)
        longer_s = sum_.new_wait_s - sum_.old_wait_s if sum_.waits else None
        usd = _more(sum_.new_usd - sum_.old_usd)
        found.append((str(len(several)), old, new, usd, _more(longer_s)))
    return found


def _change(all_: Sums) -> str:
    usd = f": {_more(all_.new_usd - all_.old_usd)} USD ({all_.old_usd:.3g} -> {all_.new_usd:.3g})"
    unknown = all_.requests - all_.waits
    if not all_.waits:
        return f"{usd}, waits are not known"
    wait = f"{_more(all_.new_wait_s - all_.old_wait_s)} s of waiting"
    means = f"mean {all_.old_wait_s / all_.waits:.3g} -> {all_.new_wait_s / all_.waits:.3g}"
    but = f", {unknown} of them not known" if unknown else ""
    return f"{usd}, {wait} ({means}{but})"


def _more(change: float | None) -> str:
    return "-" if change is None else f"{change:+.3g}"
