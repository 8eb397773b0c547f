"""What colour tables lose that are fitted to a generator, measured on simulated laboratories and undone.

A generator that was taught to doubt its statistics draws every colour towards the reference's usual shade of what it
sees there, and a table averages that over all that looks alike: even the reference itself comes out flatter than it is.
How much is known: a slide shown as simulated laboratories would show it goes through its table, and the slide as it is
says what should have come out. One table fitted to such pairs from several laboratories follows every slide's own table
(regression calibration). The laboratories' statistics are off, so that it corrects no more than pays on average where
those of slides are.

Knows tiles, laboratories and a generator. Writes no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wsi_stain.core.arrays import Rgb, RgbImage
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.stain.colour_bins import ColourPairs
from wsi_stain.stain.colour_table import Table, apply_table
from wsi_stain.stain.table_fit import fit_table
from wsi_stain.stain.template import Template
from wsi_stain.training.log import colour_templates
from wsi_stain.training.simulated_labs import SimulatedLab

_RIM = 32
"""Pixels along a tile's edges that are not counted: the generator knows nothing of what is beyond."""


def fit_correction(
    generator: Generator,
    shown: Sequence[tuple[SimulatedLab, Sequence[RgbImage]]],
    template: Template,
    autocast: torch.autocast,
) -> Table:
    """Fit the colour table that follows those of slides.

    Args:
        generator: In eval mode.
        shown: Laboratories whose statistics are as far off as life has it, each with tiles, (256, 256, 3), of the slide
            that it shows.
        template: The generator's input.
        autocast: Within which the generator is run.

    Returns:
        (17, 17, 17, 3) in 0..255; the reference's white stays where it is.
    """
    white, pairs = template.reference.white, ColourPairs()
    for lab, tiles in shown:
        source, wanted, truth = _pixels(generator, lab, tiles, template, autocast)
        pairs.add(apply_table(_table(source, wanted, lab.statistics.white, white), source[None])[0], truth)
    return fit_table(pairs, white, white)


def _table(source: RgbImage, wanted: RgbImage, white: Rgb, target_white: Rgb) -> Table:
    pairs = ColourPairs()
    pairs.add(source, wanted)
    return fit_table(pairs, white, target_white)


def _pixels(
    generator: Generator, lab: SimulatedLab, tiles: Sequence[RgbImage], template: Template, autocast: torch.autocast
) -> tuple[RgbImage, RgbImage, RgbImage]:
    """Return pixels as the laboratory shows them, as the generator makes them, and as they are, (N, 3) each."""
    device = next(generator.parameters()).device
    truth = torch.from_numpy(np.stack(tiles)).to(device)
    generated = colour_templates(generator, [lab.template(tile, template) for tile in truth], autocast)
    source, wanted, as_they_are = (
        pixels[:, _RIM:-_RIM, _RIM:-_RIM].reshape(-1, 3)
        for pixels in (lab.simulate(truth).cpu().numpy(), generated, truth.cpu().numpy())
    )
    return source, wanted, as_they_are
