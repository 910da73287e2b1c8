"""The command `lamplighter`."""

import json
import os
import sys
from importlib import import_module
from typing import Any, ClassVar

import click
import httpx2
import uvloop
from rich.console import Console
from rich.table import Table

from config.json_schema import json_schema
from config.load import load
from config.problems import ConfigError
from config.schema import Config
from config.watch import Watcher
from proxy.admin_key import find_key
from proxy.process import log_to_stderr
from proxy.serve import serve_gateway
from router.judges import judges


class _Commands(click.Group):
    """Commands, some of them in modules that are imported when they are asked for."""

    elsewhere: ClassVar = {
        "calibrate": "proxy.calibrate",
        "cost": "proxy.cost",
        "diff": "proxy.diff",
        "explain": "proxy.explain",
        "replay": "proxy.replay",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = self.elsewhere.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(module), cmd_name)
        return command


@click.group(cls=_Commands)
@click.version_option(package_name="lamplighter")
def main() -> None:
    """One OpenAI base_url over always-on pools, models started on demand, and outside APIs."""


@main.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--host", help="Address to listen on; overrides server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port; overrides server.port.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    show_default=True,
    help="info: a line for each request and each state of an instance.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that relay; above 1 this one keeps the instances and the admin API.",
)
def serve(file: str, host: str | None, port: int | None, log_level: str, workers: int) -> None:
    """Serve the models of FILE until SIGTERM; SIGHUP or a change of FILE reloads it."""
    watcher = Watcher(file)
    config = _load_or_exit(file)
    log_to_stderr(log_level.upper())
    listen_on = (host or config.server.host, config.server.port if port is None else port)
    uvloop.run(serve_gateway(config, watcher, *listen_on, workers=workers))


@main.command()
@click.argument("file", type=click.Path(dir_okay=False))
def check(file: str) -> None:
    """Check FILE; print every mistake as file:line:column and exit with 1 if there is one."""
    config = _load_or_exit(file)
    found = [_count(len(config.models), "model", "models")]
    if config.policies:
        found.append(_count(len(config.policies), "policy", "policies"))
    click.echo(f"{file}: {', '.join(found)}, no mistakes")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _load_or_exit(file: str) -> Config:
    try:
        config = load(file, os.environ)
        judges(config, file)  # whose mistakes are those of the file that names them
        return config
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        sys.exit(1)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))


@main.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The gateway.")
@click.option("--key", help="Admin key; else $LAMPLIGHTER_ADMIN_KEY, else this user's key file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def models(url: str, key: str | None, as_json: bool) -> None:
    """Show what runs: each model's state, instances and load."""
    answer = _ask_admin(url.rstrip("/").removesuffix("/v1"), key)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    table = Table(box=None, header_style="bold")
    for column in ("MODEL", "STATE", "PLACEMENT", "IN FLIGHT", "WAITING", "WHERE"):
        table.add_column(column)
    for model in answer["models"]:
        where = [f"{e['id']}{'' if e['healthy'] else ' (down)'}" for e in model["endpoints"]]
        where += [f"{i['id']} {i['state']} {i['age_s']:.0f}s" for i in model["instances"]]
        table.add_row(
            model["model"],
            model["state"],
            " ".join(model["placement"]),
            str(model["in_flight"]),
            str(model["waiting"]),
            ", ".join(where) or "-",
        )
    Console(soft_wrap=True).print(table)


def _ask_admin(url: str, key: str | None) -> Any:
    key = key or find_key(os.environ, httpx2.URL(url).port or 80)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx2.get(f"{url}/admin/models", headers=headers, trust_env=False)
    except httpx2.HTTPError as error:
        raise click.ClickException(f"no gateway answers at {url}: {error}") from error
    if response.status_code == 403:
        why = "this is not the gateway's admin key" if key else "the gateway wants its admin key"
        raise click.ClickException(f"{why}: use --key or LAMPLIGHTER_ADMIN_KEY")
    if response.status_code != 200:
        raise click.ClickException(f"{url} answered {response.status_code}; is it Lamplighter?")
    return response.json()


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="TCP port; 0 takes a free one.",
)
def demo(host: str, port: int) -> None:
    """Serve a small real model on this CPU: one always on, one started on demand."""
    from proxy.demo import run_demo  # brings what only the demo needs

    run_demo(host, port, Console(stderr=True))


if __name__ == "__main__":
    main()
