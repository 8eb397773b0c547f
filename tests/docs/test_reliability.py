"""Each fault of docs/reliability.md names a test that there is, and says by its mark whether it is slow."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.test_examples import ROOT

ROWS = re.findall(
    r"^\| .* \| `(test_\w+)`(.*?) \| [^|]+ \|$", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE
)


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


def test_every_row_is_one() -> None:
    lines = (ROOT / "docs" / "reliability.md").read_text().splitlines()
    faults = [line for line in lines if line.startswith("| ") and not line.startswith("| fault |")]
    assert len(ROWS) == len(faults) >= 9
