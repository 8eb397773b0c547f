"""Where CONTRIBUTING says that a change is made there is a file."""

from __future__ import annotations

import re

import pytest

from tests.docs.test_examples import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLE = TEXT.partition("## Where do I change")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| ([^|]+) \| (.*`.*) \|$", TABLE, re.MULTILINE)


@pytest.mark.parametrize(("change", "answer"), ROWS, ids=[change for change, _ in ROWS])
def test_a_change_is_made_in_a_file_that_is_there(change: str, answer: str) -> None:
    """A name without a folder is in the folder that was named last."""
    folder = None
    for name in re.findall(r"`([\w/.]+(?:/|\.py|\.yaml))`", answer):
        path = ROOT / name if "/" in name else folder / name if folder else ROOT / name
        assert path.exists(), f"{change}: {name}"
        folder = path if path.is_dir() else path.parent
    assert folder, f"{change}: no file"


def test_there_are_ten_changes_at_least() -> None:
    assert len(ROWS) >= 10
