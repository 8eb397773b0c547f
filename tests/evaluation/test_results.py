"""Scores on the terminal and in files: what is no number is nothing there, and null in JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

from rich.console import Console

from pipelines.evaluate.results import describe_estimate, print_scores, write_estimates, write_record, write_scores
from wsi_stain.evaluation.intervals import Estimate

ROWS = {"lut": {"ciede2000": 2.44444444, "seam": math.nan}, "macenko": {"ciede2000": 12.345, "seam": math.nan}}


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_without_a_value_are_not_shown() -> None:
    printed = io.StringIO()
    print_scores(ROWS, {"ciede2000": "CIEDE2000", "seam": "seam", "other": "other"}, Console(file=printed, width=100))
    text = printed.getvalue()
    assert "CIEDE2000" in text and "2.444" in text and "12.3" in text
    assert "seam" not in text and "other" not in text


def test_files_have_every_score_and_nothing_for_what_is_no_number(tmp_path: Path) -> None:
    write_scores(tmp_path / "a.csv", ROWS)
    assert read_csv(tmp_path / "a.csv") == [
        {"method": "lut", "ciede2000": "2.444444", "seam": ""},
        {"method": "macenko", "ciede2000": "12.345", "seam": ""},
    ]
    write_record(tmp_path / "a.json", ROWS, {"mode": "lut"}, [{"slide": "a", "scores": [1.0, math.inf]}])
    record = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert record["methods"]["lut"] == {"ciede2000": 2.444444, "seam": None}
    assert record["mode"] == "lut" and record["slides"] == [{"slide": "a", "scores": [1.0, None]}]


def test_estimates_are_written_with_their_intervals(tmp_path: Path) -> None:
    estimate = Estimate(0.91234, 0.88, 0.94, 0.02, -0.01, 0.05)
    assert describe_estimate(estimate) == "0.912 (0.88-0.94)" and describe_estimate(None) == ""
    write_estimates(tmp_path / "a.csv", {"lut": {"auc": estimate}})
    (row,) = read_csv(tmp_path / "a.csv")
    assert (row["method"], row["score"], row["value"], row["low"], row["change_low"]) == (
        *("lut", "auc", "0.91234"),
        *("0.88", "-0.01"),
    )
