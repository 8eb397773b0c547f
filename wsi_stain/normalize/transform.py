"""Patches in the reference's stain: a transform for torchvision's v2 pipelines, usable in DataLoader workers.

What decides whether a patch comes out right is the stain of the slide it is from, and no patch shows that. So the
transform is given slides, or a pool of patches of one laboratory and scanner; a single patch is refused.

Memory bound: a table of 60 kB a slide; with `generator` or `guard` one pass over a patch and its surroundings.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import ConfigError, StainError
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import file_digest
from wsi_stain.datasets.importing import ImportTask, import_slide
from wsi_stain.normalize.region import config_of_mode, normalize_patch, patch_config
from wsi_stain.normalizers.base import Normalizer
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


class StainNormalize(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """Brings images of patches into the reference's stain.

    Takes what v2 transforms take: a `tv_tensors.Image`, a tensor or a PIL image in RGB, or a sample with one among
    other things. Tensors are uint8, (3, H, W) or (B, 3, H, W). Of several slides, it takes samples that are
    dictionaries with the slide's id under "slide", a list of ids for a batch; `of(slide)` is one slide's transform.

    With `generator` and `guard` a patch's surroundings count; these are not known, so it is mirrored at its sides.
    Prefer `lut` for patches smaller than 256 px: it is faster too, and needs no generator once tables are fitted.

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
        super().__init__()
        self._checkpoint = Path(checkpoint).absolute()
        self._digest = file_digest(Path(checkpoint))
        self._config = config_of_mode(mode).resolve_auto(device)
        self._device = device
        by_id = {slides.slide_id: slides} if isinstance(slides, TiledSlide) else {name: slides[name] for name in slides}
        normalizer = self._normalizer(self._config)
        self._artifacts = {name: normalizer.prepare(slide, slide.require_stain()) for name, slide in by_id.items()}
        self._bound = list(self._artifacts.values()) if len(by_id) == 1 else None

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

    def of(self, slide: str | Sequence[str]) -> StainNormalize:
        """Return the transform of one slide, or of a batch with a slide for each image: samples need no id then.

        Raises:
            ConfigError: A slide is not known.
        """
        one = copy.copy(self)
        one._bound = [self._artifact_of(name) for name in ([slide] if isinstance(slide, str) else slide)]
        return one

    def normalize(self, pixels: RgbImage, slide: str | None = None) -> RgbImage:
        """Normalize a patch, an array (h, w, 3) uint8 RGB.

        Args:
            pixels: The patch.
            slide: The slide it is from, where the transform has several.

        Raises:
            ConfigError: It is no such array; or the slide is not known, or must be named.
        """
        (artifact,) = self._artifacts_for(1) if slide is None else [self._artifact_of(slide)]
        return self._normalize(pixels, artifact)

    def forward(self, *inputs: Any) -> Any:
        """Normalize the image of a sample."""
        sample = inputs[0]
        if len(inputs) == 1 and isinstance(sample, Mapping) and "slide" in sample and self._bound is None:
            return self.of(sample["slide"]).forward(sample)
        return super().forward(*inputs)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Normalize one of a sample's images; masks and boxes stay as they are."""
        if isinstance(inpt, Image.Image):
            (artifact,) = self._artifacts_for(1)
            return Image.fromarray(self._normalize(np.asarray(inpt), artifact))
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image):
            return inpt
        if inpt.ndim not in (3, 4) or inpt.shape[-3] != 3 or inpt.dtype != torch.uint8:
            raise ConfigError(
                f"Expected a uint8 tensor (3, H, W) or (B, 3, H, W), got {tuple(inpt.shape)} of {inpt.dtype}",
                "Normalize before v2.ToDtype and other transforms that change values",
            )
        images_BHWC = inpt.as_subclass(Tensor).reshape(-1, *inpt.shape[-3:]).permute(0, 2, 3, 1).cpu().numpy()
        artifacts = self._artifacts_for(len(images_BHWC))
        results = [self._normalize(image, own) for image, own in zip(images_BHWC, artifacts, strict=True)]
        results_BCHW = torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).to(inpt.device)
        shaped = results_BCHW.reshape(inpt.shape)
        return tv_tensors.wrap(shaped, like=inpt) if isinstance(inpt, tv_tensors.Image) else shaped

    def _normalize(self, pixels: RgbImage, artifact: Artifact) -> RgbImage:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ConfigError(
                f"Expected RGB pixels (h, w, 3) of uint8, got {pixels.shape} of {pixels.dtype}",
                "Convert the image first",
            )
        if self._config.name == "lut":  # which needs no generator any more: workers do not load it
            return apply_table(artifact[TABLE], pixels)
        return normalize_patch(pixels, self._normalizer(patch_config(self._config, pixels)), artifact)

    def _artifacts_for(self, count: int) -> list[Artifact]:
        """Return the artifact that each of a number of images is normalized by."""
        bound = self._bound
        if bound is None:
            raise ConfigError(
                f"The transform has {len(self._artifacts)} slides, and it is not known which of them the image is from",
                'Use transform.of(slide_id), or samples that are dictionaries with the id under "slide"',
            )
        if len(bound) not in (1, count):
            raise ConfigError(f"{len(bound)} slides were named for {count} images", "Name one slide, or one for each")
        return bound * count if len(bound) == 1 else bound

    def _artifact_of(self, slide: str) -> Artifact:
        if slide not in self._artifacts:
            known = ", ".join(sorted(self._artifacts)[:5])
            raise ConfigError(f"The transform does not have the slide {slide!r}, but {known}", "Give it all slides")
        return self._artifacts[slide]

    def _normalizer(self, config: NormalizeConfig) -> Normalizer:
        return load_normalizer(config, self._checkpoint, self._device, self._digest)


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
