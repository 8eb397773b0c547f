"""A run whose reference the cohort gives, and whose groups the scanner gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import Run
from tests.support.scanned_cohort import write_cohort


@pytest.mark.slow
def test_a_cohort_is_brought_to_its_own_middle(tmp_path: Path, wsi_stain: Run) -> None:
    slides, out = write_cohort(tmp_path / "lab"), tmp_path / "out"
    both = wsi_stain("run", slides[0], "-r", "auto", "-r", slides[2], "--out", out)
    assert (both.code, out.exists()) == (1, False)
    assert "--reference auto stands beside another reference" in both.err

    command = ["run", tmp_path / "lab", "--reference", "auto", "--method", "reinhard", "-j", 0, "--out", out]
    ended = wsi_stain(*command, "--group", "auto")
    assert ended.code == 0, ended.err
    assert "reference: middle.svs lies nearest to the other 2 of 3 fit slides" in ended.out
    group = "aperio no. S1, in the top folder"
    assert f"stain is measured for the 3 slides of the group {group} together" in ended.out
    record = json.loads((out / "run.json").read_text())
    assert record["reference_choice"]["candidates"][0]["slide"] == "middle.svs"
    assert record["scanner_groups"] == {group: 3}
    page = (out / "report" / "index.html").read_text()
    assert "<b>the reference</b>" in page
    assert page.count('class="colours"') == 3, "a strip of colours a slide"
