"""Patches in the reference's stain: a transform for torchvision's v2 pipelines, usable in DataLoader workers.

What decides whether a patch comes out right is the stain of the slide it is from, and no patch shows that. So the
transform is given slides, or a pool of patches of one laboratory and scanner; a single patch is refused.

Memory bound: a table of 60 kB a slide; with `generator` or `guard` one pass over a patch and its surroundings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import StainError
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import file_digest
from wsi_stain.datasets.importing import ImportTask, import_slide
from wsi_stain.normalize.region import config_of_mode, normalize_patch, patch_config
from wsi_stain.normalize.slide_transform import SlideTransform
from wsi_stain.normalizers.config import Mode, NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainConfig
from wsi_stain.store import TiledSlide, TileStore
from wsi_stain.store.artifact import TABLE, Artifact
from wsi_stain.store.patches import Listing, Patch, place_in_rows
from wsi_stain.tissue.config import TissueConfig

POOL = 2**20
"""Fewest pixels of a pool, px: that is 16 tiles."""


class StainNormalize(SlideTransform[Artifact]):
    """Brings images of patches into the reference's stain.

    Takes what `SlideTransform` says. With `generator` and `guard` a patch's surroundings count; these are not known, so
    it is mirrored at its sides. Prefer `lut` for patches smaller than 256 px: it is faster too, and needs no generator
    once tables are fitted.

    Args:
        checkpoint: The checkpoint's file.
        slides: A slide that the patches are from, or all of them by id, such as a whole `TileStore`.
        mode: What becomes of generated pixels: lut, generator or guard; or all settings.
        device: Where the generator runs, as torch names it; workers of a DataLoader want a CPU.

    Raises:
        StainError: The stain of a slide was not measured.
        CheckpointError: There is no such checkpoint, or it does not fit a slide.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        slides: TiledSlide | Mapping[str, TiledSlide] | TileStore,
        mode: Mode | NormalizeConfig = "lut",
        device: str = "cpu",
    ) -> None:
        path, config = Path(checkpoint).absolute(), config_of_mode(mode).resolve_auto(device)
        digest = file_digest(path)
        normalizer = load_normalizer(config, path, device, digest)
        by_id = {slides.slide_id: slides} if isinstance(slides, TiledSlide) else {name: slides[name] for name in slides}
        super().__init__({name: normalizer.prepare(slide, slide.require_stain()) for name, slide in by_id.items()})
        self._checkpoint, self._digest, self._config, self._device = path, digest, config, device

    @classmethod
    def from_pool(
        cls,
        checkpoint: str | Path,
        images: Sequence[RgbImage],
        mpp: float,
        mode: Mode | NormalizeConfig = "lut",
        device: str = "cpu",
    ) -> StainNormalize:
        """Make the transform for patches of one laboratory and scanner whose slides are not known.

        Args:
            checkpoint: The checkpoint's file.
            images: A sample of the patches, (h, w, 3) each; the more, the better: together at least `POOL` px.
            mpp: Their resolution, um per px.
            mode: As for the class.
            device: As for the class.

        Raises:
            StainError: The pool is too small to tell a stain from what a patch happens to show, or is not H&E.
        """
        total = sum(image.shape[0] * image.shape[1] for image in images)
        if total < POOL:
            raise StainError(
                f"A pool of {len(images)} images has {total} px, expected at least {POOL}: stain is measured on many"
                " patches together, never on one",
                "Give more patches of the same laboratory, or the slides that they are from",
            )
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "pool.zarr"
            task = ImportTask(_Pool(images), store, mpp, "mpp", TissueConfig(), StainConfig())
            pool = import_slide(task)["slide_id"]
            return cls(checkpoint, TileStore(store)[pool], mode, device)

    def normalize(self, pixels: RgbImage, slide: str | None = None) -> RgbImage:
        """Normalize a patch, an array (h, w, 3) uint8 RGB.

        Args:
            pixels: The patch.
            slide: The slide it is from, where the transform has several.

        Raises:
            ConfigError: It is no such array; or the slide is not known, or must be named.
        """
        return self.change_patch(pixels, slide)

    def change(self, pixels: RgbImage, known: Artifact) -> RgbImage:
        """Normalize an image, (h, w, 3), of a slide by its artifact."""
        if self._config.name == "lut":  # which needs no generator any more: workers do not load it
            return apply_table(known[TABLE], pixels)
        config = patch_config(self._config, pixels)
        return normalize_patch(pixels, load_normalizer(config, self._checkpoint, self._device, self._digest), known)


@dataclass(frozen=True)
class _Pool:
    """Images in memory as an import takes them, laid side by side."""

    images: Sequence[RgbImage]
    relative: str = "pool"
    facts: dict[str, Any] = field(default_factory=dict)

    def listing(self) -> Listing:
        """List all images, the highest first."""
        sizes = [Size(image.shape[1], image.shape[0]) for image in self.images]
        order = sorted(range(len(sizes)), key=lambda number: (-sizes[number].height, number))
        places = place_in_rows([sizes[number] for number in order])
        patches = [Patch(str(number), place) for number, place in zip(order, places, strict=True)]
        return Listing(patches, {"size": 0, "digest": "pool"})

    def read(self, patches: Sequence[Patch]) -> Iterator[tuple[Patch, RgbImage | str]]:
        """Yield each image."""
        for patch in patches:
            yield patch, self.images[int(patch.name)]
