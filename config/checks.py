"""What only two keys together can tell: names used twice, unknown fallbacks, cycles.

What is about placement, devices and money is in `planning_checks.py`. Both look at the raw values,
so that these mistakes are reported together with all others. Whatever has the wrong type is left
to the schema.
"""

from collections.abc import Iterator

from config.problems import Place, did_you_mean, dotted, shown
from config.templates import placeholders
from config.yaml_lines import Document, Path


def check(document: Document) -> None:
    """Add to the document's problems."""
    top = document.value
    models = top.get("models") if isinstance(top, dict) else None
    if not isinstance(models, dict):
        return
    targets = _names(document, models)
    _fallback_cycles(document, _others(document, models, targets, "fallback"))
    _overflow(document, _others(document, models, targets, "overflow"))
    for name, model in models.items():
        if isinstance(model, dict):
            _sources(document, name, model)
            _cold(document, ("models", name, "cold"), model.get("cold"))
            _urls(document, ("models", name, "hot", "urls"), model.get("hot"))


def _texts(document: Document, path: Path, value: object) -> Iterator[tuple[Place, str]]:
    """The strings of a list, each with its place."""
    for n, item in enumerate(value if isinstance(value, list) else []):
        if isinstance(item, str):
            yield document.values[*path, n], item


def _names(document: Document, models: dict[str, object]) -> dict[str, str]:
    """Every name and alias with the model it means."""
    places = {name: document.keys["models", name] for name in models}
    targets = {name: name for name in models}
    for model, body in models.items():
        aliases = body.get("aliases") if isinstance(body, dict) else None
        for place, alias in _texts(document, ("models", model, "aliases"), aliases):
            if alias not in targets:
                targets[alias], places[alias] = model, place
                continue
            first = places[alias]
            # The later of the two is the one that is likely wrong.
            early, late = sorted((first, place))
            message = (
                f"name {shown(alias)} is used twice, on line {early.line} and on line {late.line};"
                " each name and alias may stand for one model only"
            )
            document.report(late, message)
    return targets


def _others(
    document: Document, models: dict[str, object], targets: dict[str, str], key: str
) -> dict[str, list[str]]:
    """The other models that each model names under a key; unknown ones are reported."""
    edges: dict[str, list[str]] = {}
    for model, body in models.items():
        written = body.get(key) if isinstance(body, dict) else None
        edges[model] = []
        for place, name in _texts(document, ("models", model, key), written):
            if name in models:
                edges[model].append(name)
                continue
            meant = targets.get(name)
            hint = f"; it is an alias: write {meant!r}" if meant else did_you_mean(name, models)
            where = dotted(("models", model, key))
            document.report(place, f"unknown model {shown(name)} in {where}{hint}")
    return edges


def _fallback_cycles(document: Document, edges: dict[str, list[str]]) -> None:
    for cycle in _cycles(edges):
        path: Path = ("models", cycle[0], "fallback")
        document.report(
            document.keys.get(path, Place(1, 1)),
            f"fallback goes in a circle: {' -> '.join([*cycle, cycle[0]])}; take one of them out",
        )


def _overflow(document: Document, edges: dict[str, list[str]]) -> None:
    """Overflow of overflow is never asked, so circles do no harm here."""
    for model, names in edges.items():
        path: Path = ("models", model, "overflow")
        for name in sorted({name for name in names if names.count(name) > 1 or name == model}):
            wrong = "the model itself" if name == model else f"{shown(name)} more than once"
            document.report(
                document.keys.get(path, Place(1, 1)), f"{dotted(path)} names {wrong}; take it out"
            )


def _cycles(edges: dict[str, list[str]]) -> Iterator[list[str]]:
    """One cycle for each edge that closes one, found depth first without recursion."""
    done: set[str] = set()
    for start in edges:
        trail: list[str] = []
        on_trail: set[str] = set()
        steps: list[Iterator[str]] = [iter([start])]
        while steps:
            name = next(steps[-1], None)
            if name is None:
                steps.pop()
                if trail:
                    done.add(gone := trail.pop())
                    on_trail.discard(gone)
            elif name in on_trail:
                yield trail[trail.index(name) :]
            elif name not in done:
                trail.append(name)
                on_trail.add(name)
                steps.append(iter(edges[name]))


def _sources(document: Document, name: str, model: dict[str, object]) -> None:
    path: Path = ("models", name)
    if path in document.broken or any(model.get(key) is not None for key in ("hot", "cold", "api")):
        return
    if any((*path, key) in document.broken for key in ("hot", "cold", "api")):
        return
    document.report(
        document.keys[path], f"{dotted(path)} has no server; give it at least one of hot, cold, api"
    )


def _cold(document: Document, path: Path, cold: object) -> None:
    if not isinstance(cold, dict):
        return
    many = cold.get("max_instances")
    place = document.keys.get((*path, "max_instances"))
    if place and isinstance(many, int) and many > 1 and cold.get("max_concurrency") is None:
        document.report(
            place,
            f"{dotted(path)}: max_instances {many} needs max_concurrency, the most requests at a"
            " time to one server: without it nothing says when another one is needed",
        )
    command, env = cold.get("command"), cold.get("env")
    if not command or any((*path, key) in document.broken for key in ("command", "env")):
        return
    words = command if isinstance(command, list) else [command]
    words = [*words, *(env.values() if isinstance(env, dict) else [])]
    if not any("port" in placeholders(word) for word in words if isinstance(word, str)):
        document.report(
            document.values[*path, "command"],
            f"{dotted(path)}.command: must contain {{port}}, which becomes the port the server is"
            " to listen on, such as --port {port}",
        )


def _urls(document: Document, path: Path, hot: object) -> None:
    urls = hot.get("urls") if isinstance(hot, dict) else None
    seen: dict[str, Place] = {}
    for n, item in enumerate(urls if isinstance(urls, list) else []):
        url = item.get("url") if isinstance(item, dict) else item
        place = document.values[*path, n]
        if isinstance(url, str) and (key := url.strip().rstrip("/")) in seen:
            line = seen[key].line
            message = f"{dotted((*path, n))}: the same URL as on line {line}; use weight for more"
            document.report(place, message)
        elif isinstance(url, str):
            seen[key] = place
