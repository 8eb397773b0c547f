"""A normalizer that changes nothing, in place of every mode: pixels pass all its doors and must come out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wsi_stain.core.arrays import Mask, Rgb8, RgbImage
from wsi_stain.core.geometry import TILE
from wsi_stain.normalizers.base import Normalizer
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.load import FACTORIES
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import Artifact, NormalizationCounts


class IdentityNormalizer:
    """Changes nothing: what comes out must be what went in, in its place. No setting leads to it."""

    halo, band, table = 0, 4 * TILE, None

    def __init__(self, white: Rgb8 = (255, 255, 255)) -> None:
        self.white = white

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        return {}

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        return pixels


@contextmanager
def identity_in_every_mode() -> Iterator[None]:
    """In this process, so with 0 workers, whatever checkpoint and mode are asked for give the identity."""
    with pytest.MonkeyPatch.context() as patch:
        for mode in FACTORIES:
            patch.setitem(FACTORIES, mode, _make)
        yield


def _make(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> Normalizer:
    return IdentityNormalizer(white)
