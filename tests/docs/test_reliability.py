"""The tests that docs/reliability.md names are there, and slow where it says so."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.test_examples import ROOT

TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| .* \| `(test_\w+)`(.*?) \| [^|]+ \|$", TEXT, re.MULTILINE)


def find_tests() -> dict[str, bool]:
    """All tests by name, and whether each is marked as slow, itself or with its file."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        all_slow = re.search(r"^pytestmark = .*\.slow", text, re.MULTILINE) is not None
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name] = all_slow or any(
                    ast.unparse(mark) == "pytest.mark.slow" for mark in node.decorator_list
                )
    return found


TESTS = find_tests()


@pytest.mark.parametrize(("name", "remark"), ROWS, ids=[name for name, _ in ROWS])
def test_every_fault_names_a_test(name: str, remark: str) -> None:
    assert name in TESTS
    assert TESTS[name] == ("(slow" in remark)


def test_every_file_of_tests_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", TEXT)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_there_are_rows_to_look_at() -> None:
    assert len(ROWS) >= 17
