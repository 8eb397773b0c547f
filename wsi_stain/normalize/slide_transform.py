"""The part that transforms of patches share: which slide an image is from, and what an image may be."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import ConfigError

Knowledge = TypeVar("Knowledge")
"""What is known of a slide: as much as its images need."""

Self = TypeVar("Self", bound="SlideTransform[Any]")


class SlideTransform(Generic[Knowledge], v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A torchvision-v2 transform whose images are each from a slide of which something is known.

    Takes what v2 transforms take: a `tv_tensors.Image`, a tensor or a PIL image in RGB, or a sample with one among
    other things. Tensors are uint8, (3, H, W) or (B, 3, H, W). Of several slides, it takes samples that are
    dictionaries with the slide's id under "slide", a list of ids for a batch; `of(slide)` is one slide's transform.

    Args:
        slides: What is known of each slide, by its id.
    """

    def __init__(self, slides: Mapping[str, Knowledge]) -> None:
        super().__init__()
        self._slides = dict(slides)
        self._bound = list(self._slides.values()) if len(self._slides) == 1 else None

    @abstractmethod
    def change(self, pixels: RgbImage, known: Knowledge) -> RgbImage:
        """Change an image, (h, w, 3), of a slide of which `known` is known."""

    def of(self: Self, slide: str | Sequence[str]) -> Self:
        """Return the transform of one slide, or of a batch with a slide for each image: samples need no id then.

        Raises:
            ConfigError: A slide is not known.
        """
        one = copy.copy(self)
        one._bound = [self._known_of(name) for name in ([slide] if isinstance(slide, str) else slide)]
        return one

    def forward(self, *inputs: Any) -> Any:
        """Change the image of a sample."""
        sample = inputs[0]
        if len(inputs) == 1 and isinstance(sample, Mapping) and "slide" in sample and self._bound is None:
            return self.of(sample["slide"]).forward(sample)
        return super().forward(*inputs)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change one of a sample's images; masks and boxes stay as they are."""
        if isinstance(inpt, Image.Image):
            (known,) = self._known_for(1)
            return Image.fromarray(self.change_array(np.asarray(inpt), known))
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image):
            return inpt
        if inpt.ndim not in (3, 4) or inpt.shape[-3] != 3 or inpt.dtype != torch.uint8:
            raise ConfigError(
                f"Expected a uint8 tensor (3, H, W) or (B, 3, H, W), got {tuple(inpt.shape)} of {inpt.dtype}",
                "Change colours before v2.ToDtype and other transforms that change values",
            )
        images_BHWC = inpt.as_subclass(Tensor).reshape(-1, *inpt.shape[-3:]).permute(0, 2, 3, 1).cpu().numpy()
        knowledge = self._known_for(len(images_BHWC))
        results = [self.change_array(image, own) for image, own in zip(images_BHWC, knowledge, strict=True)]
        results_BCHW = torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).to(inpt.device)
        shaped = results_BCHW.reshape(inpt.shape)
        return tv_tensors.wrap(shaped, like=inpt) if isinstance(inpt, tv_tensors.Image) else shaped

    def change_array(self, pixels: RgbImage, known: Knowledge) -> RgbImage:
        """Change an image, after a look at what it is; ConfigError where it is no RGB image."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ConfigError(
                f"Expected RGB pixels (h, w, 3) of uint8, got {pixels.shape} of {pixels.dtype}",
                "Convert the image first",
            )
        return self.change(pixels, known)

    def change_patch(self, pixels: RgbImage, slide: str | None) -> RgbImage:
        """Change a patch, (h, w, 3) uint8 RGB, of a slide, which None does not name.

        Raises:
            ConfigError: It is no such array; or the slide is not known, or must be named.
        """
        (known,) = self._known_for(1) if slide is None else [self._known_of(slide)]
        return self.change_array(pixels, known)

    def _known_for(self, count: int) -> list[Knowledge]:
        """Return what is known of the slide of each of a number of images."""
        bound = self._bound
        if bound is None:
            raise ConfigError(
                f"The transform has {len(self._slides)} slides, and it is not known which of them the image is from",
                'Use transform.of(slide_id), or samples that are dictionaries with the id under "slide"',
            )
        if len(bound) not in (1, count):
            raise ConfigError(f"{len(bound)} slides were named for {count} images", "Name one slide, or one for each")
        return bound * count if len(bound) == 1 else bound

    def _known_of(self, slide: str) -> Knowledge:
        if slide not in self._slides:
            known = ", ".join(sorted(self._slides)[:5])
            raise ConfigError(f"The transform does not have the slide {slide!r}, but {known}", "Give it all slides")
        return self._slides[slide]
