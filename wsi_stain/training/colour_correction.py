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

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from wsi_stain.core.arrays import RgbImage
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.resample import shrink_pixels
from wsi_stain.stain.colour_bins import ColourPairs
from wsi_stain.stain.colour_table import Table, apply_table
from wsi_stain.stain.refinement import refine_statistics, sum_beliefs
from wsi_stain.stain.table_fit import fit_table
from wsi_stain.stain.template import apply_template
from wsi_stain.training.log import colour_templates
from wsi_stain.training.simulated_labs import SimulatedLab

_RIM = 32
"""Its pixels along a tile's edges that are not counted: the generator knows nothing of what is beyond."""


def fit_correction(
    checkpoint: Checkpoint, shown: Iterable[tuple[SimulatedLab, Sequence[RgbImage]]], autocast: torch.autocast
) -> Table:
    """Fit the colour table that follows those of slides.

    Args:
        checkpoint: The generator, with the contract under which it is used.
        shown: Laboratories whose statistics are as far off as life has it, each with tiles, (side, side, 3) of 256
            shrink px, of the slide that it shows.
        autocast: Within which the generator is run.

    Returns:
        (17, 17, 17, 3) in 0..255; the reference's white stays where it is.
    """
    white, pairs = checkpoint.contract.white, ColourPairs()
    for lab, tiles in shown:
        truth = torch.from_numpy(np.stack(tiles)).to(next(checkpoint.generator.parameters()).device)
        seen = lab.simulate(truth)
        table = _fit_as_on_slides(checkpoint, lab, seen, autocast)
        rim = _RIM * checkpoint.contract.shrink
        pairs.add(apply_table(table, _inner_pixels(seen, rim)[None])[0], _inner_pixels(truth, rim))
    return fit_table(pairs, white, white)


def _fit_as_on_slides(checkpoint: Checkpoint, lab: SimulatedLab, seen_BHWC: Tensor, autocast: torch.autocast) -> Table:
    """Fit a laboratory's own table to what the generator makes of tiles, as `normalizers.lut` does."""
    contract, statistics, pairs = checkpoint.contract, lab.statistics, ColourPairs()
    source_BhwC = shrink_pixels(seen_BHWC, contract.shrink)

    def generate() -> tuple[RgbImage, RgbImage]:
        templates = [apply_template(tile, statistics, contract.template) for tile in source_BhwC]
        generated_BhwC = torch.from_numpy(colour_templates(checkpoint.generator, templates, autocast))
        return _inner_pixels(source_BhwC), _inner_pixels(generated_BhwC)

    for _ in range(contract.stain_passes):
        beliefs = sum_beliefs([generate()], statistics, contract.template)
        statistics = refine_statistics(beliefs, statistics, lab.statistics, contract.template.reference)
    pairs.add(*generate())
    return fit_table(pairs, statistics.white, contract.white)


def _inner_pixels(tiles_BHWC: Tensor, rim: int = _RIM) -> RgbImage:
    """Return the pixels of tiles that are not near their edges, (N, 3)."""
    return tiles_BHWC[:, rim:-rim, rim:-rim].reshape(-1, 3).cpu().numpy()
