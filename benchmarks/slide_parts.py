"""Parts of a stored slide to train on and to judge on, and the methods that are judged there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipelines.shared.config import load_config
from wsi_stain.core.arrays import Mask, RgbImage, round_rgb
from wsi_stain.core.geometry import TILE, Region, TileIndex
from wsi_stain.evaluation.tile_choice import SIDE_TILES, rich_blocks
from wsi_stain.normalizers.base import Normalizer
from wsi_stain.normalizers.classical import (
    MacenkoNormalizer,
    ReinhardNormalizer,
    VahadaneNormalizer,
    lab_moments,
    sparse_stains,
)
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.stain.statistics import StainStatistics, od_table
from wsi_stain.stain.template import Template, apply_template
from wsi_stain.stain.vectors import unmixing_matrix
from wsi_stain.store import StoredSlide, TiledSlide
from wsi_stain.store.artifact import STATISTICS, Artifact, NormalizationCounts, pack_statistics, unpack_statistics
from wsi_stain.store.stain_sample import measure_stain
from wsi_stain.training.loop import train

MODES = ("generator", "guard", "lut")
"""What is made of a checkpoint's pixels."""

CLASSICAL = ("statistics alone", "Reinhard", "Macenko", "Vahadane")
"""Methods without a checkpoint."""

MEASURE_THEMSELVES = ("Reinhard", "Vahadane")
"""Methods that measure a slide by themselves, beside its stain statistics."""

_AS_IT_SHIPS = NormalizeConfig()
_TRAIN_SHARE = 0.6
_GUARD_TILES = 3
_BLOCKS = 10


class Part:
    """Some tiles of a stored slide, shown in some way: what normalizers and stain statistics need of a `TiledSlide`.

    Args:
        stored: The slide.
        tiles: (rows, cols), which tiles count.
        show: What the laboratory makes of pixels, (h, w, 3) to the same.
    """

    def __init__(self, stored: StoredSlide, tiles: Mask, show: Callable[[RgbImage], RgbImage]) -> None:
        self._stored, self._show, self.path = stored, show, stored.path
        self.size, self.mpp, self.record, self.mask = stored.size, stored.mpp, stored.record, stored.mask
        self.exempt, self.stain = stored.exempt, stored.stain
        self.kept = stored.kept & tiles
        self.tissue = np.where(tiles, stored.tissue, 0).astype(np.float32)

    @cached_property
    def thumbnail(self) -> RgbImage:
        return self._show(self._stored.thumbnail)

    def read(self, region: Region) -> RgbImage:
        pixels = self._stored.read(region)
        return np.where((pixels == 255).all(axis=2, keepdims=True), np.uint8(255), self._show(pixels))

    def read_tile(self, tile: TileIndex) -> RgbImage:
        return self.read(square(tile, 1))


def square(tile: TileIndex, side: int) -> Region:
    return Region(tile.col * TILE, tile.row * TILE, side * TILE, side * TILE)


def block_region(first: TileIndex) -> Region:
    """The 4 x 4 tiles that begin with one."""
    return square(first, SIDE_TILES)


def parts(stored: StoredSlide) -> tuple[Mask, Mask]:
    """Tiles to train on and tiles to test on, (rows, cols) each, along the slide's longer side."""
    rows, cols = stored.kept.shape
    place, count = (np.arange(cols)[None, :], cols) if cols > rows else (np.arange(rows)[:, None], rows)
    cut = int(count * _TRAIN_SHARE)
    cut -= cut % SIDE_TILES
    everywhere = np.ones_like(stored.kept)
    return everywhere & (place < cut - _GUARD_TILES), everywhere & (place >= cut)


def training_part(stored: StoredSlide) -> Part:
    return Part(stored, parts(stored)[0], keep_pixels)


def keep_pixels(pixels: RgbImage) -> RgbImage:
    return pixels


def blocks_of(stored: StoredSlide, tiles: Mask, count: int = _BLOCKS) -> list[TileIndex]:
    """First tiles of the blocks that are judged, at most `count`."""
    return rich_blocks(np.where(tiles & stored.kept, stored.tissue, 0).astype(np.float32), count)


def apply_to_block(normalizer: Normalizer, slide: Part, block: TileIndex, artifact: Any) -> RgbImage:
    source = slide.read(block_region(block).expand(normalizer.halo))
    return normalizer.apply(source, np.ones((SIDE_TILES, SIDE_TILES), bool), artifact)


class StatisticsAlone:
    """The reference's stain vectors and levels, without any network: a Beer-Lambert picture of the he template.

    What neither stain explains stays as it is.

    Args:
        reference: Stain of the reference.
    """

    halo, band = 0, 4 * TILE

    def __init__(self, reference: StainStatistics) -> None:
        self._template = Template(kind="he", reference=reference)
        self.white = round_rgb(reference.white)

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """The slide's stain is all there is to know."""
        return {STATISTICS: pack_statistics(statistics)}

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Normalize a block, needed or not."""
        own, ref = unpack_statistics(artifact), self._template.reference
        table = od_table(own.white)
        od = np.stack([table[pixels[..., c], c] for c in range(3)], axis=-1)
        rest = od - od @ unmixing_matrix(own.vectors) @ np.asarray(own.vectors)
        # A template counts from glass, -1, to twice the reference's levels, 1.
        amounts = (apply_template(pixels, own, self._template) + 1) * (ref.h_nuclei, ref.e_stroma)
        changed = np.maximum(amounts @ np.asarray(ref.vectors) + rest, 0)
        light = (np.asarray(ref.white) + 1) * np.exp(-changed) - 1
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def methods(
    reference: Part,
    checkpoints: Mapping[str, Path],
    modes: Sequence[str] = MODES,
    settings: NormalizeConfig = _AS_IT_SHIPS,
) -> dict[str, Callable[[], Normalizer]]:
    """How to load every method, by name; the checkpoints are trained on the reference."""

    @cache
    def stain() -> StainStatistics:
        return measure_stain(reference, reference.record.stain_config)  # type: ignore[arg-type]

    @cache
    def pool() -> RgbImage:
        rich = [TileIndex(int(r), int(c)) for r, c in np.argwhere(reference.tissue >= 0.5)]
        some = rich[:: max(1, len(rich) // 200)]
        return np.concatenate([reference.read_tile(tile).reshape(-1, 3)[::16] for tile in some])

    makers: list[Callable[[], Normalizer]] = [
        lambda: StatisticsAlone(stain()),
        lambda: ReinhardNormalizer(*lab_moments(pool(), stain().white)),
        lambda: MacenkoNormalizer(stain()),
        lambda: VahadaneNormalizer(*sparse_stains(pool(), stain().white), stain().white),
    ]
    trained_ones = {
        f"{name} / {mode}": partial(load_normalizer, settings.model_copy(update={"mode": mode}), path)  # type: ignore[arg-type]
        for name, path in checkpoints.items()
        for mode in modes
    }
    return dict(zip(CLASSICAL, makers, strict=True)) | trained_ones


def train_variant(part: Part, config: str, changes: str, out: Path) -> Path:
    """A variant's checkpoint; trained on a part of a slide unless it is there."""
    if (out / "checkpoint.safetensors").exists():
        return out / "checkpoint.safetensors"
    stain = measure_stain(part, part.record.stain_config)  # type: ignore[arg-type]
    slide = StoredSlide(part.path, part.record.model_copy(update={"stain": stain}))
    slide.__dict__.update(tissue=part.tissue, kept=part.kept)
    settings = load_config(config, {"training": overrides(changes)}).training
    started = time.monotonic()
    path = train(settings, [slide], out)
    print(f"{out.name}: trained in {time.monotonic() - started:.0f} s", flush=True)
    return path


def overrides(changes: str) -> dict[str, Any]:
    """`a.b=1,c=x` as nested dictionaries."""
    found: dict[str, Any] = {}
    for change in filter(None, changes.split(",")):
        key, value = change.split("=", 1)
        *sections, last = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = yaml.safe_load(value)
    return found
