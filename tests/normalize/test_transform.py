"""Patches in the reference's stain, in torchvision's v2 pipelines and in DataLoader workers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain import StainNormalize, TileStore, normalized_tiles
from wsi_stain.core.errors import ConfigError, StainError
from wsi_stain.core.geometry import Region, Size, TileIndex
from wsi_stain.normalizers.config import NormalizeConfig

Pixels = NDArray[np.uint8]
FAST = {"lut_tiles": 10, "lut_size": 9, "stride_px": 256, "precision": "float32"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two slides, one stained twice as strongly, and a checkpoint."""
    root = tmp_path_factory.mktemp("transform")
    pixels = paint_tissue(Size(1100, 700))
    store_slide(root / "store", "a", pixels)
    store_slide(root / "store", "b", (pixels.astype(float) ** 2 / 255).astype(np.uint8))
    write_untrained(root / "c.safetensors", mpp=0.25, gain=12)
    return root


def load_transform(root: Path, mode: str = "lut") -> StainNormalize:
    normalize = NormalizeConfig.model_validate({"mode": mode, **FAST})
    return StainNormalize(root / "c.safetensors", TileStore(root / "store"), normalize)


@pytest.fixture(scope="module")
def both(root: Path) -> StainNormalize:
    return load_transform(root)


@pytest.fixture(scope="module")
def transform(both: StainNormalize) -> StainNormalize:
    return both.of("a")


@pytest.fixture(scope="module")
def patch() -> Pixels:
    return paint_tissue(Size(96, 80), seed=1)


def tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def test_every_kind_of_image_comes_out_as_it_came_in(transform: StainNormalize, patch: Pixels) -> None:
    expected = transform.normalize(patch)
    assert expected.shape == patch.shape and not np.array_equal(expected, patch)
    plain = transform(tensor(patch))
    assert type(plain) is torch.Tensor and torch.equal(plain, tensor(expected))
    wrapped = transform(tv_tensors.Image(tensor(patch)))
    assert type(wrapped) is tv_tensors.Image and torch.equal(wrapped, plain)
    picture = transform(Image.fromarray(patch))
    assert isinstance(picture, Image.Image) and np.array_equal(np.asarray(picture), expected)
    batch = transform(torch.stack([tensor(patch), tensor(patch[::-1])]))
    assert torch.equal(batch, torch.stack([plain, tensor(expected[::-1])]))


def test_the_rest_of_a_sample_is_left_alone(transform: StainNormalize, patch: Pixels) -> None:
    mask = tv_tensors.Mask(torch.ones(1, 80, 96, dtype=torch.uint8))
    image, found, label = transform(tv_tensors.Image(tensor(patch)), mask, 3)
    assert torch.equal(found, mask) and label == 3 and isinstance(image, tv_tensors.Image)
    pipeline = v2.Compose([transform, v2.RandomHorizontalFlip(1), v2.ToDtype(torch.float32, scale=True)])
    flipped, label = pipeline(tensor(patch), 1)
    assert label == 1
    assert torch.allclose(flipped, tensor(transform.normalize(patch)).flip(-1) / 255)


def test_each_patch_is_normalized_by_its_own_slide(both: StainNormalize, patch: Pixels) -> None:
    by_a, by_b = both.normalize(patch, "a"), both.normalize(patch, "b")
    assert not np.array_equal(by_a, by_b)
    sample = both({"image": tensor(patch), "slide": "b", "label": 1})
    assert torch.equal(sample["image"], tensor(by_b)) and (sample["slide"], sample["label"]) == ("b", 1)
    batch = both({"image": torch.stack([tensor(patch)] * 2), "slide": ["a", "b"]})["image"]
    assert torch.equal(batch, torch.stack([tensor(by_a), tensor(by_b)]))


def test_a_patch_of_an_unknown_slide_is_refused(both: StainNormalize, patch: Pixels) -> None:
    with pytest.raises(ConfigError, match="does not have the slide 'c', but a, b"):
        both({"image": tensor(patch), "slide": "c"})
    with pytest.raises(ConfigError, match="has 2 slides, and it is not known which of them"):
        both(tensor(patch))
    with pytest.raises(ConfigError, match="3 slides were named for 2 images"):
        both({"image": torch.stack([tensor(patch)] * 2), "slide": ["a", "b", "a"]})


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, 3, dtype=torch.uint8)],
    ids=["float", "gray", "channels last"],
)
def test_what_is_no_rgb_of_uint8_is_refused(transform: StainNormalize, image: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="Expected a uint8 tensor"):
        transform(image)
    with pytest.raises(ConfigError, match="Expected RGB pixels"):
        transform.normalize(image.numpy()[None])


@pytest.mark.parametrize("mode", ["generator", "guard"])
def test_what_a_patch_shows_beyond_its_sides_is_mirrored(root: Path, mode: str) -> None:
    """Far enough from its sides a large patch is what the slide is."""
    slide = TileStore(root / "store")["a"]
    patch = slide.read(Region(0, 0, 1024, 700))
    normalize = NormalizeConfig.model_validate({"mode": mode, "guard_um": 4, **FAST})
    found = StainNormalize(root / "c.safetensors", slide, normalize).normalize(patch)
    tiles = dict(normalized_tiles(slide, root / "c.safetensors", normalize))
    inner = found[256:512, 256:512].astype(int)
    assert np.abs(inner - tiles[TileIndex(1, 1)]).max() <= 1
    assert len(np.unique(inner)) > 50


class Patches(torch.utils.data.Dataset[Any]):
    """The same patch as of both slides in turn."""

    def __init__(self, patch: Pixels, transform: StainNormalize) -> None:
        self.patch, self.transform = patch, transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> Any:
        return self.transform({"image": tensor(self.patch), "slide": "ab"[number % 2], "number": number})


@pytest.mark.parametrize("mode", ["lut", "generator"])
def test_workers_of_a_data_loader_give_the_same(root: Path, patch: Pixels, mode: str) -> None:
    transform = load_transform(root, mode)
    data = Patches(patch, pickle.loads(pickle.dumps(transform)))
    (batch,) = DataLoader(data, batch_size=6, num_workers=1, multiprocessing_context="spawn")
    for number, slide in enumerate(batch["slide"]):
        assert np.array_equal(batch["image"][number].numpy().transpose(1, 2, 0), transform.normalize(patch, slide))


def test_a_pool_is_like_the_slide_it_was_cut_from(root: Path, transform: StainNormalize, patch: Pixels) -> None:
    pixels = paint_tissue(Size(1600, 1100))
    images = [pixels[y : y + 100, x : x + 100] for y in range(0, 1100, 100) for x in range(0, 1600, 100)]
    normalize = NormalizeConfig.model_validate({"mode": "lut", **FAST})
    pooled = StainNormalize.from_pool(root / "c.safetensors", images, 0.25, normalize)
    difference = np.abs(pooled.normalize(patch).astype(int) - transform.normalize(patch))
    assert difference.mean() < 12
    assert not np.array_equal(pooled.normalize(patch), patch)


def test_a_single_patch_is_no_pool(root: Path, patch: Pixels) -> None:
    with pytest.raises(StainError, match="never on one"):
        StainNormalize.from_pool(root / "c.safetensors", [patch], 0.25)
