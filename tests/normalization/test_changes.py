"""What changed since a slide's outputs were begun is said by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.normalization.changes import INTERRUPTED, UNKNOWN, describe_changes, record_ingredients

BEFORE = {
    "file": "f",
    "tiling": "t",
    "checkpoint": "c",
    "version": "0.1",
    "normalize": {"mode": "lut", "stride_px": 512},
    "device": "cpu",
    "stain": None,
}


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"file": "g"}, "the slide's file changed"),
        ({"checkpoint": "d"}, "the checkpoint or reference is another"),
        ({"version": "0.2"}, "it was made by another version of wsi-stain (0.1, this is 0.2)"),
        ({"device": "cuda"}, "the device is cuda, was cpu"),
        ({"normalize": {"mode": "lut", "stride_px": 256}}, "normalize.stride_px is 256, was 512"),
        (
            {"file": "g", "normalize": {"mode": "guard", "stride_px": 512, "new": 1}},
            "the slide's file changed, normalize.mode is guard, was lut, normalize.new is 1, was None",
        ),
        ({}, INTERRUPTED),
    ],
)
def test_each_change_is_a_clause(tmp_path: Path, change: dict[str, Any], clause: str) -> None:
    record_ingredients(tmp_path, BEFORE)
    assert describe_changes(tmp_path, {**BEFORE, **change}) == clause


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff"])
def test_without_a_record_all_that_may_have_changed_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "made_of.json").write_bytes(content)
    assert describe_changes(tmp_path, BEFORE) == UNKNOWN
