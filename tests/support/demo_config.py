"""A configuration that trains for as short as the demo does: less is worse than no normalization, and refused."""

from __future__ import annotations

from pathlib import Path

_SMALL = Path(__file__).parents[2] / "configs" / "small.yaml"


def write_demo_config(path: Path) -> None:
    """Write `small` with the demo's number of images; what a configuration leaves out is of the full size."""
    text = _SMALL.read_text(encoding="utf-8")
    assert "  images: 2000 " in text
    path.write_text(text.replace("  images: 2000 ", "  images: 1200 "), encoding="utf-8")
