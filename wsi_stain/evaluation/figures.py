"""Figures of what an evaluation found, as PNG. matplotlib is loaded when the first is drawn; no display is needed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsi_stain.core.journal import atomic_write

Points = Mapping[str, Sequence[float]]
"""By method, the values of single tiles or slides."""

_DPI = 110
_BAR = "#7aa6c2"
_DOT = "#22405a"


def write_points(path: Path, panels: Mapping[str, Points], lines: Mapping[str, float] | None = None) -> None:
    """Draw a panel for each score side by side: a row a method, every value a dot, the mean a bar.

    Args:
        path: The picture.
        panels: By title, the values by method; a method without values leaves its row empty.
        lines: By title, where a perfect score lies.
    """
    names = list(dict.fromkeys(name for points in panels.values() for name in points))
    figure, axes = _axes(len(panels), len(names))
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        for row, name in enumerate(names):
            values = np.asarray(points.get(name, ()), float)
            if not len(values):
                continue
            axis.barh(row, values.mean(), color=_BAR, height=0.7)
            spread = np.random.default_rng(0).uniform(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
            axis.plot(values, row + spread, ".", color=_DOT, markersize=3 if len(values) > 20 else 6, alpha=0.6)
        if lines and title in lines:
            axis.axvline(lines[title], color="black", linewidth=0.8, linestyle="--")
        axis.set_title(title, fontsize=10)
    _label(axes, names)
    _save(figure, path)


def write_intervals(
    path: Path,
    title: str,
    intervals: Mapping[str, tuple[float, float, float]],
    scale: tuple[float, float] | None = None,
) -> None:
    """Draw a row for each method: its value, and an interval around it.

    Args:
        path: The picture.
        title: What the values are.
        intervals: By method (value, low, high); an interval may be NaN.
        scale: Both ends of the axis, so that a small difference looks small; None fits it to the values.
    """
    figure, (axis,) = _axes(1, len(intervals))
    for row, (value, low, high) in enumerate(intervals.values()):
        axis.plot([low, high], [row, row], color=_BAR, linewidth=5, solid_capstyle="round")
        axis.plot(value, row, "o", color=_DOT, clip_on=False)
    if scale:
        axis.set_xlim(*scale)
    axis.set_title(title, fontsize=10)
    axis.grid(axis="x", alpha=0.3)
    _label([axis], list(intervals))
    _save(figure, path)


def _axes(columns: int, rows: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # not pyplot: nothing global, no display

    figure = Figure(figsize=(2.2 + 3.0 * columns, 1.1 + 0.34 * rows), dpi=_DPI, layout="constrained")
    return figure, list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])


def _label(axes: Sequence[Any], names: Sequence[str]) -> None:
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    file = io.BytesIO()
    # No date and no version: the same scores give the same bytes.
    figure.savefig(file, format="png", metadata={"Software": None})
    atomic_write(path, file.getvalue())
