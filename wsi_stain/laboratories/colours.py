"""What a named laboratory makes of a slide's colours, as a colour table. Knows no slides or networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Rgb
from wsi_stain.laboratories.named import NamedLaboratory
from wsi_stain.laboratories.perturbation import perturb
from wsi_stain.stain.colour_table import Table, look_up
from wsi_stain.stain.statistics import StainStatistics

SIZE = 33
"""Entries along each side of a table: then it is within half a grey level of the laboratory itself on tissue."""


def laboratory_white(laboratory: NamedLaboratory, white: Rgb) -> Rgb:
    """Return the glass, RGB, of a slide with the glass `white` there."""
    if laboratory.table is not None:
        return laboratory.table.wanted_white
    return laboratory.white or white


def laboratory_table(laboratory: NamedLaboratory, stain: StainStatistics) -> Table:
    """Make the table, (33, 33, 33, 3), that shows a slide's colours as a laboratory would.

    Args:
        laboratory: The laboratory.
        stain: The slide's own stain; its white comes out as `laboratory_white`, but for what a table rounds.
    """
    nodes = np.stack(np.meshgrid(*[np.linspace(0, 255, SIZE)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    shown = show_colours(laboratory, stain, nodes)
    return np.asarray(shown.reshape(SIZE, SIZE, SIZE, 3), np.float32)


def show_colours(
    laboratory: NamedLaboratory, stain: StainStatistics, colours: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Show colours of a slide, (N, 3) RGB 0 to 255, as a laboratory would; unrounded."""
    if laboratory.table is None:
        return np.asarray(perturb(colours, laboratory.perturbation(stain.white), stain, beyond_white=True))
    balance = (np.asarray(laboratory.table.white) + 1) / (np.asarray(stain.white) + 1)
    seen = np.clip((colours + 1) * balance - 1, 0, 255)
    return look_up(laboratory.table.array, seen)
