"""Slides as a simulated laboratory would show them: the doors of a normalizer, the other way round. Writes no files."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from wsi_stain.core.arrays import Mask, Rgb8, RgbImage, round_rgb, to_rgb
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.geometry import TILE
from wsi_stain.core.journal import file_digest, read_json
from wsi_stain.laboratories.colours import laboratory_table, laboratory_white
from wsi_stain.laboratories.named import NamedLaboratory
from wsi_stain.normalizers.simulated.usual_slide import USUAL_WHITE
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import Artifact, NormalizationCounts

COLOURS = "colours"
"""Entry of the artifact: the slide's table, (N, N, N, 3) float32."""


class LaboratoryNormalizer:
    """Shows each slide as a laboratory would, by one colour table a slide. Needs no neighbouring pixels.

    Args:
        laboratory: The laboratory.
    """

    halo, band, table = 0, 4 * TILE, None

    def __init__(self, laboratory: NamedLaboratory) -> None:
        self._laboratory = laboratory
        self.white: Rgb8 = round_rgb(laboratory_white(laboratory, USUAL_WHITE))

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Make the slide's table; its glass comes out as `white`."""
        fixed = self._laboratory
        if fixed.table is None and fixed.white is None:
            fixed = fixed.model_copy(update={"white": to_rgb(self.white)})
        return {COLOURS: laboratory_table(fixed, statistics)}

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Show all of the pixels, (h, w, 3)."""
        return apply_table(artifact[COLOURS], pixels)


def load_laboratory(path: Path, digest: str) -> NamedLaboratory:
    """Read the laboratory of a run, which must be the one with `digest`.

    Raises:
        CheckpointError: It is another, or none, or damaged.
    """
    try:
        laboratory = NamedLaboratory.model_validate(read_json(path))
    except ValidationError as error:
        raise CheckpointError(f"{path} describes no laboratory: {error.errors()[0]['msg']}", "Run it again") from error
    if file_digest(path) != digest:
        raise CheckpointError(f"{path} changed since the run began", "Run the same command again")
    return laboratory
