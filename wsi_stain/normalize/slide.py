"""A slide that is normalized while it is read, behind OpenSlide's own interface.

Level 0 has the pixels that a run's pyramid has before JPEG. The coarser levels, halvings as in the pyramids that a run
writes, are for looking: the slide's colour table on the file's own coarser pixels. A generator that works at one
resolution would have to see all of level 0 for them; the table takes milliseconds.

Memory bound: that of `region`, and the region asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from openslide import AbstractSlide, OpenSlide
from PIL import Image

from wsi_stain.core.arrays import RgbTiles
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.geometry import TILE, Region, level_sizes
from wsi_stain.core.icc import decode_profile
from wsi_stain.normalize.region import RegionNormalizer
from wsi_stain.normalizers.background import fade_weights, show_exempt
from wsi_stain.normalizers.config import Mode, NormalizeConfig
from wsi_stain.pix2pix.checkpoint import read_contract
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.listing.names import slide_id
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store.artifact import Artifact
from wsi_stain.store.cards import slide_card
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.streamed_slide import StreamedSlide, survey_streamed

_Request: TypeAlias = tuple[Mode | NormalizeConfig, StainStatistics | None, str | None]
"""Mode, statistics and device, as `NormalizedSlide` was asked for."""


class NormalizedSlide(AbstractSlide):  # type: ignore[misc]  # openslide ships no types here
    """Slide in the reference's stain, for everything that takes an `openslide.OpenSlide`.

    Opening it looks for tissue, measures the slide's stain and fits its colour table, which takes a few seconds. What a
    run calls glass is the reference's white here.

    Threads may share it, and forked processes (those of a DataLoader, say) may go on with it where the mode is `lut`;
    with a generator let workers be spawned. It may be pickled: what was measured goes along, the file is opened again.

    Args:
        slide: The slide's file.
        checkpoint: The checkpoint's file.
        mode: What becomes of generated pixels: generator, guard, lut, or auto (lut without a GPU); or all settings.
        tiling: How the slide is read and its tissue found; its `slide.mpp` resamples level 0.
        statistics: What to take for the slide's stain, such as its group's; by default its own.
        device: Where the generator runs, as torch names it; by default a GPU where there is one.

    Raises:
        SlideError: The slide cannot be used; NoTissueError where it has no tissue.
        StainError: It is not H&E.
        CheckpointError: There is no such checkpoint, or it does not fit the slide.
    """

    def __init__(
        self,
        slide: str | Path,
        checkpoint: str | Path,
        mode: Mode | NormalizeConfig = "auto",
        tiling: TilingConfig | None = None,
        statistics: StainStatistics | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self._checkpoint = Path(checkpoint).absolute()
        contract = read_contract(self._checkpoint)
        config = tiling or TilingConfig(slide=SlideConfig(icc=contract.icc_policy))
        if config.slide.icc != contract.icc_policy:
            raise CheckpointError(
                f"The checkpoint was trained with ICC policy {contract.icc_policy}, asked for is {config.slide.icc}",
                f"Set tiling.slide.icc to {contract.icc_policy}",
            )
        name = Path(slide).name
        source = SlideSource(path=Path(slide), slide_id=slide_id(name), relative=name)
        self._open(survey_streamed(source, config), (mode, statistics, device), None)

    def _open(self, slide: StreamedSlide, request: _Request, artifact: Artifact | None) -> None:
        """Make the normalizer of a slide that was surveyed; the artifact, where there is one."""
        self._slide, self._request = slide, request
        try:
            self._normalizer = RegionNormalizer(slide, self._checkpoint, *request, artifact=artifact)
            self._bounds = slide.bounds
        except BaseException:
            slide.close()
            raise
        self._sizes = level_sizes(slide.size)
        self._profile = decode_profile(read_contract(self._checkpoint).icc_profile)

    def __getstate__(self) -> dict[str, Any]:
        artifact = dict(self._normalizer.artifact)
        return {"checkpoint": self._checkpoint, "slide": self._slide, "request": self._request, "artifact": artifact}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._checkpoint = state["checkpoint"]
        self._open(state["slide"], state["request"], state["artifact"])

    def __repr__(self) -> str:
        return f"NormalizedSlide({str(self._slide.source.path)!r})"

    def _repr_html_(self) -> str:
        width, height = self.dimensions
        facts = {
            "normalized": f"{self._normalizer.mode} of {self._checkpoint.name}",
            "size": f"{width} x {height} px, {self.level_count} levels",
            "resolution": f"{self._slide.mpp.mean:.4g} um/px",
            "tiles": str(int(self._slide.kept.sum())),
        }
        return slide_card(self._slide.source.relative, facts, np.asarray(self.get_thumbnail((320, 320))))

    @classmethod
    def detect_format(cls, filename: str | Path) -> str | None:
        """Return the vendor of a slide's file, as OpenSlide names it; None where OpenSlide cannot open it."""
        found: str | None = OpenSlide.detect_format(filename)
        return found

    def close(self) -> None:
        """Release the slide's file."""
        self._slide.close()

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return len(self._sizes)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level, px; each half its finer one, rounded up."""
        return tuple((size.width, size.height) for size in self._sizes)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels along each side of a pixel of each level: 1, 2, 4, ..."""
        return tuple(float(2**level) for level in range(self.level_count))

    @property
    def properties(self) -> Mapping[str, str]:
        """Resolution, levels, magnification, bounds, background by OpenSlide's names; nothing else of the source's."""
        found = {
            "openslide.vendor": "wsi-stain",
            "openslide.mpp-x": str(self._slide.mpp.x),
            "openslide.mpp-y": str(self._slide.mpp.y),
            "openslide.background-color": "".join(f"{value:02X}" for value in self._normalizer.white),
            **{f"openslide.bounds-{side}": str(value) for side, value in self._bounds._asdict().items()},
            "openslide.level-count": str(self.level_count),
        }
        for level, (size, downsample) in enumerate(zip(self._sizes, self.level_downsamples, strict=True)):
            facts = {"width": size.width, "height": size.height, "downsample": f"{downsample:g}"}
            found |= {f"openslide.level[{level}].{name}": str(value) for name, value in facts.items()}
        if (power := self._slide.record.objective_power) is not None:
            found["openslide.objective-power"] = f"{power:g}"
        return MappingProxyType(found)

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """None: labels and macro images may name a patient."""
        return MappingProxyType({})

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """Return the coarsest level that is at least as fine as a downsample."""
        return max((level for level, own in enumerate(self.level_downsamples) if own <= downsample), default=0)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """Read a region in the reference's stain.

        Args:
            location: (x, y) of its upper left corner, in pixels of level 0.
            level: The level.
            size: (width, height), in pixels of the level.

        Returns:
            RGBA, as OpenSlide gives it: transparent outside the slide, opaque within.

        Raises:
            ValueError: There is no such level, or the size is negative.
            SlideError: The slide cannot be read there.
        """
        if not 0 <= level < self.level_count or min(size) < 0:
            raise ValueError(f"Expected a level below {self.level_count} and a size, got level {level} of {size} px")
        (x, y), (width, height) = (value // 2**level for value in location), size
        region = Region(x, y, width, height)
        pixels = self._normalizer.read(region) if level == 0 else self._read_coarse(level, region)
        alpha = np.zeros((height, width, 1), np.uint8)
        inside = self._sizes[level]
        alpha[max(-y, 0) : max(inside.height - y, 0), max(-x, 0) : max(inside.width - x, 0)] = 255
        image = Image.fromarray(np.concatenate([pixels, alpha], axis=2))
        if self._profile is not None:
            image.info["icc_profile"] = self._profile
        return image

    def read_regions(self, locations: Sequence[tuple[int, int]], size: tuple[int, int]) -> RgbTiles:
        """Read many regions of level 0 at once: what the generator works on in one go is worked out once for all.

        Args:
            locations: (x, y) of each one's upper left corner; any number, in any order.
            size: (width, height) of each.

        Returns:
            RGB, (n, height, width, 3), in the order of the locations; the reference's white outside the slide.

        Raises:
            SlideError: The slide cannot be read there.
        """
        if not locations:
            return np.empty((0, size[1], size[0], 3), np.uint8)
        return self._normalizer.read_many([Region(x, y, *size) for x, y in locations])

    def _read_coarse(self, level: int, region: Region) -> NDArray[np.uint8]:
        """Read RGB of a coarser level by the slide's colour table, faded into white as level 0 is."""
        factor = 2**level
        source = self._slide.read_shrunk(factor, region)
        pixels = self._normalizer.normalize_coarse(source)
        show_exempt(self._slide, region, pixels, source, self._normalizer.white, self._sizes[level])
        rows, cols = (
            (np.arange(start, start + count) + 0.5) * factor / TILE
            for start, count in ((region.y, region.height), (region.x, region.width))
        )
        weight, white = fade_weights(self._slide.kept, rows, cols)[..., None], np.asarray(self._normalizer.white)
        fade: NDArray[np.uint8] = np.rint(white + weight * (pixels - white)).astype(np.uint8)
        return fade
