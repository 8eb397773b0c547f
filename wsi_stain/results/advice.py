"""Advice on a slide that did not come out well: never what was done. Knows no files."""

from __future__ import annotations

_TRAIN = "train longer, or on a reference that is more like it"
_OTHER_WAYS = {
    "generator": f"normalize it with --mode lut, or {_TRAIN}, and run again",
    "guard": f"normalize it with --mode lut, or {_TRAIN}, and run again",
    "lut": f"{_TRAIN}, and run again",
}


def another_way(mode: str) -> str:
    """Return what else may be tried with a slide that was normalized in a mode, or by a classical method."""
    return f"Look at the slide; {_OTHER_WAYS.get(mode, 'take another --method and run again')}"
