"""The recipes of docs/features.md run in the real tools: what each reads and extracts is of the normalized slide.

Each tool needs an environment of its own, so a test is skipped where its tool is not installed beside wsi-stain.
slide2vec cannot be (it holds NumPy below 2) and reads files only: its test takes the Python of slide2vec's environment
from SLIDE2VEC_PYTHON.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import openslide
import pytest
import torch
from rich.console import Console
from torch import nn
from torchvision.models import squeezenet1_1
from torchvision.transforms.functional import pil_to_tensor

from pipelines import run
from pipelines.shared.config import RunConfig
from tests.docs.test_examples import ROOT
from tests.support.made_checkpoint import write_untrained
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain import NormalizedSlide

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the tools' warnings are their own

SIDE, MPP = 192, 0.5


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("slide") / "a.tif", paint(SMALL)).path


@pytest.fixture(scope="module")
def checkpoint(slide: Path) -> Path:
    return write_untrained(slide.parent / "c.safetensors", mpp=MPP, gain=12)


@pytest.fixture(scope="module")
def normalized(slide: Path, checkpoint: Path) -> Iterator[NormalizedSlide]:
    with NormalizedSlide(slide, checkpoint, "lut") as opened:
        yield opened


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a recipe of docs/examples."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    return import_module


class Encoder(nn.Module):
    """A small network with weights as they were drawn: features, (n, 512), of RGB in 0 to 1, (n, 3, h, w)."""

    enc_name = "squeezenet"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = squeezenet1_1(weights=None).features.eval()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(batch).mean(dim=(2, 3))

    @staticmethod
    def eval_transforms(image: object) -> torch.Tensor:
        """Scale a picture, or (h, w, 3), to (3, h, w) in 0 to 1."""
        pixels = image if isinstance(image, np.ndarray) else np.asarray(image)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def features_of(slide: NormalizedSlide | openslide.OpenSlide, corners: np.ndarray) -> np.ndarray:
    """Extract the features, (n, 512), of a slide's tiles without any tool."""
    regions = (slide.read_region((int(x), int(y)), 0, (SIDE, SIDE)).convert("RGB") for x, y in corners)
    with torch.inference_mode():
        return Encoder()(torch.stack([pil_to_tensor(each) / 255 for each in regions])).numpy()


def test_trident_extracts_features(
    slide: Path, checkpoint: Path, normalized: NormalizedSlide, recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    pytest.importorskip("trident.wsi_objects", reason="TRIDENT is not installed")
    from trident.segmentation_models import segmentation_model_factory

    reader = recipe("trident_reader").NormalizedWSI
    reader.checkpoint = str(checkpoint)
    with reader(str(slide), lazy_init=False, max_workers=2) as wsi:
        wsi.segment_tissue(segmentation_model_factory("otsu"), 1.25, job_dir=str(tmp_path), device="cpu", num_workers=0)
        coords = wsi.extract_tissue_coords(20, SIDE, str(tmp_path / "coords"))
        made = wsi.extract_patch_features(Encoder(), coords, str(tmp_path / "features"), device="cpu")
    h5py = import_module("h5py")
    with h5py.File(made) as file:
        corners, features = file["coords"][:], file["features"][:]
    assert len(corners) > 5
    np.testing.assert_allclose(features, features_of(normalized, corners), rtol=1e-4, atol=1e-5)


def test_lazyslide_extracts_features(
    slide: Path, checkpoint: Path, normalized: NormalizedSlide, recipe: Callable[[str], ModuleType]
) -> None:
    zs = pytest.importorskip("lazyslide", reason="LazySlide is not installed")
    recipe("wsidata_reader").NormalizedReader.checkpoint = str(checkpoint)
    wsi = zs.open_wsi(str(slide), reader="wsi-stain")
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, SIDE, mpp=MPP)
    for workers in (0, 2):
        features = zs.tl.feature_extraction(
            wsi, Encoder(), transform=Encoder.eval_transforms, num_workers=workers, device="cpu", return_features=True
        )
        corners = wsi.shapes["tiles"].bounds[["minx", "miny"]].to_numpy()
        assert len(corners) > 5
        np.testing.assert_allclose(features, features_of(normalized, corners), rtol=1e-4, atol=1e-5)


def test_tiatoolbox_extracts_patches(
    slide: Path, checkpoint: Path, normalized: NormalizedSlide, recipe: Callable[[str], ModuleType]
) -> None:
    pytest.importorskip("tiatoolbox", reason="tiatoolbox is not installed")
    from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor

    reader = recipe("tiatoolbox_reader").NormalizedReader(slide, checkpoint)
    assert reader.info.mpp == pytest.approx((MPP, MPP))
    patches = SlidingWindowPatchExtractor(reader, (SIDE, SIDE), resolution=MPP, units="mpp", within_bound=True)
    assert len(patches) > 5
    for patch, (x, y, *_far) in zip(patches, patches.coordinate_list, strict=True):
        region = normalized.read_region((int(x), int(y)), 0, (SIDE, SIDE)).convert("RGB")
        assert np.array_equal(patch, np.asarray(region))
    reader.openslide_wsi.close()


def test_slide2vec_extracts_features_of_a_pyramid(
    slide: Path, checkpoint: Path, normalized: NormalizedSlide, tmp_path: Path
) -> None:
    python, script = os.environ.get("SLIDE2VEC_PYTHON"), ROOT / "tests" / "support" / "slide2vec_features.py"
    if python is None:
        pytest.skip("SLIDE2VEC_PYTHON names no Python with slide2vec")
    config = {"normalize": {"mode": "lut"}, "executor": {"workers": 0}, "stream": True}
    request = run.Request([slide], [], checkpoint, tmp_path / "out", RunConfig.model_validate(config))
    assert run.run(request, Console()) == 0
    written, made = tmp_path / "out" / "slides" / "a.ome.tif", tmp_path / "features.npz"
    subprocess.run([python, script, written, str(SIDE), str(MPP), made], check=True, cwd=tmp_path)
    with np.load(made) as found, openslide.OpenSlide(written) as pyramid:
        inside = (found["corners"] + SIDE <= pyramid.dimensions).all(axis=1)
        features, corners = found["features"][inside], found["corners"][inside]
        assert len(corners) > 5
        np.testing.assert_allclose(features, features_of(pyramid, corners), rtol=1e-4, atol=1e-5)
    apart = np.linalg.norm(features - features_of(normalized, corners), axis=1) / np.linalg.norm(features, axis=1)
    assert np.median(apart) < 0.05, "JPEG's"
