"""The table of behaviours names tests that exist, and every behaviour in its scope."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "docs" / "behaviours.md").read_text()
ROWS = re.findall(r"^\| (\d+) \|[^|]*\|([^|]*)\|", TABLE, re.MULTILINE)
IN_SCOPE = [*range(1, 28), *range(33, 39)]


def existing() -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    trees = (ast.parse(file.read_text()) for file in TESTS.rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, functions)}


def test_every_test_in_the_table_exists() -> None:
    named = {name for _, tests in ROWS for name in re.findall(r"`(test_\w+)`", tests)}
    assert named - existing() == set()


def test_every_behaviour_in_scope_has_a_row_with_a_test() -> None:
    assert [int(number) for number, _ in ROWS] == IN_SCOPE
    assert [number for number, tests in ROWS if "`test_" not in tests] == []
