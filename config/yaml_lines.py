"""One YAML file as plain values plus the place of every key and value.

Reads libyaml's events rather than its nodes: so depth and size are bounded before anything is
built, and a quoted "1" stays text. Owns all mistakes that are about YAML, none about meaning.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import yaml

from config.problems import Place, Problem, dotted
from config.scalars import FilledText, core, fill

Path = tuple[str | int, ...]

MAX_NODES = 100_000  # after aliases are expanded: "billion laughs" ends here
MAX_DEPTH = 40
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # YAML 1.2, 5.1
)
_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Scalar:
    place: Place
    text: str
    plain: bool  # neither quoted nor a block: numbers and booleans are recognised


@dataclass(frozen=True, slots=True)
class Items:
    place: Place
    items: list["Node"]


@dataclass(frozen=True, slots=True)
class Pairs:
    place: Place
    pairs: list[tuple["Node", "Node"]]


Node = Scalar | Items | Pairs


@dataclass(slots=True)
class Document:
    """`value` is usable, with the broken parts None, even when there are problems."""

    name: str
    value: object = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    broken: set[Path] = field(default_factory=set)  # already reported: say nothing more of these
    filled: dict[str, str] = field(default_factory=dict)  # environment values by variable
    problems: list[Problem] = field(default_factory=list)

    def report(self, place: Place, message: str) -> None:
        # A name in the file may hold line breaks or terminal escapes; a message may not.
        safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in message)
        self.problems.append(Problem(self.name, place.line, place.column, safe))


class _Stop(Exception):
    """What follows cannot be read."""

    def __init__(self, place: Place, message: str) -> None:
        self.place, self.message = place, message


def read(text: str, name: str, env: Mapping[str, str]) -> Document:
    """Never raises: mistakes are in `problems` of the answer."""
    document = Document(name)
    text = text.removeprefix("\ufeff")
    try:
        if found := _FORBIDDEN.search(text):
            place = place_at(text, found.start())
            raise _Stop(place, f"the character U+{ord(found[0]):04X} is not allowed in YAML")
        root = _Composer(text).document()
        _Builder(document, env).document(root)
    except _Stop as stop:
        document.report(stop.place, stop.message)
    except yaml.MarkedYAMLError as error:
        _report_syntax(document, text, error)
    except yaml.YAMLError as error:
        document.report(Place(1, 1), f"not valid YAML: {error}")
    return document


def place_at(text: str, index: int) -> Place:
    before = text[:index]
    return Place(before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)


class _Mark(Protocol):
    """Of libyaml or of the parser in Python; both count from 0."""

    line: int
    column: int


def _place(mark: _Mark | None) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _report_syntax(document: Document, text: str, error: yaml.MarkedYAMLError) -> None:
    place = _place(error.problem_mark or error.context_mark)
    lines = text.splitlines() or [""]
    line = lines[min(place.line, len(lines)) - 1]
    message = f"not valid YAML: {error.problem or error.context}"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        message += "; the line begins with a tab: indent with spaces"
    elif "${env." in line:
        message += '; inside [...] and {...} put quotes around "${env.NAME}"'
    elif error.problem and error.problem.startswith("mapping values are not allowed"):
        message += "; check the indentation, and put quotes around a text with a colon in it"
    document.report(place, message)


class _Composer:
    """Events to nodes. An alias is the very node of its anchor, so nothing is copied here."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=_LOADER))
        self._anchors: dict[str, Node | None] = {}  # None: begun, not ended

    def document(self) -> Node:
        next(self._events)  # the start of the stream
        first = next(self._events)
        if isinstance(first, yaml.StreamEndEvent):
            raise _Stop(Place(1, 1), "the file is empty; begin with: version: 1")
        root = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            message = "a second document begins here; write one document in one file"
            raise _Stop(_place(after.start_mark), message)
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        place = _place(event.start_mark)
        if depth > MAX_DEPTH:
            raise _Stop(place, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), place)
        assert isinstance(event, yaml.NodeEvent)
        anchor = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        node = self._content(event, place, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _alias(self, anchor: str, place: Place) -> Node:
        if anchor not in self._anchors:
            raise _Stop(place, f"*{anchor} refers to nothing: no &{anchor} comes before it")
        node = self._anchors[anchor]
        if node is None:
            raise _Stop(place, f"*{anchor} contains itself")
        return node

    def _content(self, event: yaml.Event, place: Place, depth: int) -> Node:
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(event, depth + 1))
            return Items(place, items)
        if isinstance(event, yaml.MappingStartEvent):
            pairs: list[tuple[Node, Node]] = []
            while not isinstance(event := next(self._events), yaml.MappingEndEvent):
                key = self._node(event, depth + 1)
                pairs.append((key, self._node(next(self._events), depth + 1)))
            return Pairs(place, pairs)
        assert isinstance(event, yaml.ScalarEvent)
        tag = event.tag
        if tag not in (None, "!") and tag not in _CORE_TAGS:
            raise _Stop(place, f"the tag {tag} is not supported; leave it out")
        plain = bool(event.implicit[0]) or tag in _CORE_TAGS - {"tag:yaml.org,2002:str"}
        return Scalar(place, event.value, plain)


class _Builder:
    """Nodes to values; every place an alias is used counts towards the limit."""

    def __init__(self, document: Document, env: Mapping[str, str]) -> None:
        self._document = document
        self._env = env
        self._nodes = 0

    def document(self, root: Node) -> None:
        self._document.value = self._value(root, ())

    def _spend(self, place: Place, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Stop(place, f"more than {MAX_NODES} values once aliases are expanded")
        if depth > MAX_DEPTH:
            raise _Stop(place, f"nested more than {MAX_DEPTH} levels deep")

    def _value(self, node: Node, path: Path) -> object:
        self._spend(node.place, len(path))
        self._document.values[path] = node.place
        match node:
            case Scalar():
                return self._scalar(node, path)
            case Items():
                return [self._value(item, (*path, n)) for n, item in enumerate(node.items)]
            case Pairs():
                return self._mapping(node, path)

    def _mapping(self, node: Pairs, path: Path) -> dict[str, object]:
        out: dict[str, object] = {}
        for name, (place, value) in self._entries(node, path, len(path)).items():
            self._document.keys[*path, name] = place
            out[name] = self._value(value, (*path, name))
        return out

    def _entries(self, node: Pairs, path: Path, depth: int) -> dict[str, tuple[Place, Node]]:
        """Keys by name, those of `<<` after the map's own, which win."""
        own: dict[str, tuple[Place, Node]] = {}
        merged: list[Node] = []
        for key, value in node.pairs:
            self._spend(key.place, depth)
            if key == Scalar(key.place, "<<", True):
                merged += value.items if isinstance(value, Items) else [value]
            elif (name := self._key(key, path)) is None:
                continue
            elif name in own:
                first = own[name][0].line
                where = f" in {dotted(path)}" if path else ""
                message = f"key {name!r} is written twice{where}; the first is on line {first}"
                self._document.report(key.place, message)
            else:
                own[name] = (key.place, value)
        for base in merged:
            if not isinstance(base, Pairs):
                raise _Stop(base.place, "<< takes a map or a list of maps")
            own = {**self._entries(base, path, depth + 1), **own}
        return own

    def _key(self, key: Node, path: Path) -> str | None:
        if not isinstance(key, Scalar):
            message = "a key must be text, not a list or a map"
        elif key.plain and not isinstance(core(key.text), str):
            message = f'a key must be text; put quotes around it: "{key.text}"'
        elif "${env." in key.text:
            message = "environment variables are filled into values, not into keys"
        else:
            return key.text
        self._document.report(key.place, message)
        self._document.broken.add(path)
        return None

    def _scalar(self, node: Scalar, path: Path) -> object:
        if "${env." not in node.text:
            return core(node.text) if node.plain else node.text
        text, used, wrong = fill(node.text, self._env)
        self._document.filled.update(used)
        for message in wrong:
            self._document.report(node.place, message)
        if wrong:
            self._document.broken.add(path)
            return None
        value = core(text) if node.plain else text
        return FilledText(value) if isinstance(value, str) else value
