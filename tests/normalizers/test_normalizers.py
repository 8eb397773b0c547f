"""Normalizers: no seams, whatever the cut; the same result every time; a table that follows the generator."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from tests.support.identity import IdentityNormalizer
from tests.support.made_checkpoint import STATISTICS, WHITE, lively
from wsi_stain.core.errors import CheckpointError, NoTissueError, OutputError
from wsi_stain.core.geometry import Mpp, Region, Size, TileIndex, grid_shape, tile_region
from wsi_stain.normalizers.base import Normalizer
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.generator import GeneratorNormalizer, GuardNormalizer
from wsi_stain.normalizers.load import FACTORIES, load_normalizer
from wsi_stain.normalizers.lut import RESIDUAL, TILES, LutNormalizer, TableFit
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.normalizers.tile_sample import choose_tiles
from wsi_stain.pix2pix.checkpoint import Checkpoint, save
from wsi_stain.pix2pix.config import Shrink
from wsi_stain.pix2pix.precision import Precision
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.template import apply_template
from wsi_stain.store.artifact import TABLE, load_artifact, save_artifact, unpack_statistics

Pixels = NDArray[np.uint8]

MPP = Mpp(0.5, 0.5)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    lively(path)
    return path


@pytest.fixture(scope="module")
def predictor(checkpoint_path: Path) -> GeneratorPredictor:
    return GeneratorPredictor(Checkpoint.load(checkpoint_path), precision="float32")


@dataclass
class Painting:
    """A slide in memory: tissue-coloured noise of some scale in an ellipse, glass elsewhere."""

    size: ClassVar[Size] = Size(1501, 1127)
    mpp: Mpp = MPP

    @cached_property
    def pixels(self) -> Pixels:
        rng = np.random.default_rng(1)
        y, x = np.mgrid[: self.size.height, : self.size.width]
        inside = (x / self.size.width - 0.5) ** 2 + (y / self.size.height - 0.5) ** 2 < 0.2
        coarse = rng.gamma(2.0, 0.35, (75, 100, 2)).repeat(16, axis=0).repeat(16, axis=1)
        amounts = coarse[: self.size.height, : self.size.width] * rng.uniform(0.8, 1.2, (*inside.shape, 2))
        amounts *= inside[..., None]
        amounts *= (0.4 + x / self.size.width)[..., None]
        return np.round(STATISTICS.white * np.exp(-amounts @ np.array(STATISTICS.vectors))).astype(np.uint8)

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        rows, cols = grid_shape(self.size)
        stained = self.pixels.mean(axis=2) < 230
        padded = np.pad(stained, ((0, rows * 256 - self.size.height), (0, cols * 256 - self.size.width)))
        return padded.reshape(rows, 256, cols, 256).mean(axis=(1, 3), dtype=np.float32)

    exempt: ClassVar[NDArray[np.uint8]] = np.zeros((1, 1), np.uint8)

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.tissue > 0

    def read(self, region: Region) -> Pixels:
        out = np.full((region.height, region.width, 3), 255, np.uint8)
        left, top = max(region.x, 0), max(region.y, 0)
        found = self.pixels[top : region.y + region.height, left : region.x + region.width]
        target = out[top - region.y :, left - region.x :]
        target[: found.shape[0], : found.shape[1]] = found
        return out


@pytest.fixture(scope="module")
def painting() -> Painting:
    return Painting()


def all_needed(pixels: Pixels, halo: int) -> NDArray[np.bool_]:
    return np.ones(grid_shape(Size(pixels.shape[1] - 2 * halo, pixels.shape[0] - 2 * halo)), bool)


@pytest.mark.parametrize(
    "config",
    [
        {"downs": 5},
        {"downs": 3},
        {"downs": 5, "upsample": "resize"},
        {"downs": 5, "in_channels": 2},
        {"downs": 6, "ngf": 4},
        {"downs": 4, "shrink": 2},
    ],
    ids=lambda config: "-".join(f"{k}{v}" for k, v in config.items()),
)
@pytest.mark.parametrize("device", DEVICES)
def test_tiled_is_whole_before_rounding(
    tmp_path: Path, painting: Painting, config: dict[str, object], device: str
) -> None:
    predictor = GeneratorPredictor(lively(tmp_path / "c", **config), device, "float32")
    halo = predictor.halo
    whole = predictor.predict(painting.read(Region(0, 0, 1024, 768).expand(halo)), STATISTICS)
    shrink = predictor.shrink
    assert whole.shape == (768 // shrink, 1024 // shrink, 3)
    for x, y, side in ((0, 0, 256), (512, 256, 256), (256, 256, 512), (768, 512, 256)):
        part = predictor.predict(painting.read(Region(x, y, side, side).expand(halo)), STATISTICS)
        rows, cols = (slice(first // shrink, (first + side) // shrink) for first in (y, x))
        unlike = (part - whole[rows, cols]).abs().max() / 127.5
        assert unlike < (1e-5 if device == "cpu" else 1e-3)  # cuDNN chooses its engines by the window's shape
    without = predictor.predict(painting.read(Region(512 + 32, 256 + 32, 64, 64).expand(halo)), STATISTICS)
    narrow = painting.read(Region(512 + 32, 256 + 32, 64, 64).expand(halo))
    narrow[: halo - 2] = 255
    assert (predictor.predict(narrow, STATISTICS) - without).abs().max() > 1e-2  # the halo is looked at


@pytest.mark.parametrize("kind", ["generator", "held", "guard"])
@pytest.mark.parametrize(("precision", "shrink"), [("float32", 1), ("float32", 2), ("bfloat16", 1)])
@pytest.mark.parametrize("device", DEVICES)
def test_blocks_of_any_size_give_one_picture(
    tmp_path: Path, painting: Painting, precision: Precision, shrink: Shrink, kind: str, device: str
) -> None:
    predictor = GeneratorPredictor(lively(tmp_path / "c", shrink=shrink, downs=6 - shrink), device, precision)
    table = TableFit(predictor, WHITE, 9, tiles=4) if kind == "held" else None
    pictures = []
    for stride_px, batch, cuts in ((256, 1, [0]), (512, 4, [0, 512]), (1024, 1, [0]), (768, 2, [0, 768])):
        normalizer = (
            GuardNormalizer(predictor, WHITE, stride_px, radius=16, batch=batch)
            if kind == "guard"
            else GeneratorNormalizer(predictor, WHITE, stride_px, table, batch, hold_radius=16)
        )
        artifact = normalizer.prepare(painting, STATISTICS)
        picture = np.zeros_like(painting.pixels)
        for x, right in zip(cuts, [*cuts[1:], painting.size.width], strict=True):
            source = painting.read(Region(x, 0, right - x, painting.size.height).expand(normalizer.halo))
            picture[:, x:right] = normalizer.apply(source, all_needed(source, normalizer.halo), artifact)
        pictures.append(picture.astype(int))
    assert pictures[0].std() > 5
    for picture in pictures[1:]:
        unlike = np.abs(picture - pictures[0])
        if device == "cpu":
            assert unlike.max() <= 1 and (unlike > 0).mean() < 1e-2
        else:  # cuDNN chooses its engines by the window's shape; a run has one
            assert unlike.mean() < 0.5 and np.percentile(unlike, 99.9) <= 4


def test_mean_colour_and_detail_are_held_to_the_table(predictor: GeneratorPredictor, painting: Painting) -> None:
    """Means over places of 64 px come to what the table makes of the slide, and so does what is finer than 4 px."""
    table = TableFit(predictor, WHITE, 9, tiles=4)
    artifact = table.prepare(painting, STATISTICS)
    explained = apply_table(artifact[TABLE], painting.read(Region(256, 256, 512, 512))).astype(float)
    off = {}
    for radius in (0, 16):
        normalizer = GeneratorNormalizer(predictor, WHITE, 512, table, hold_radius=radius)
        block = painting.read(Region(256, 256, 512, 512).expand(normalizer.halo))
        beyond = normalizer.apply(block, np.ones((2, 2), bool), artifact) - explained
        steps = np.abs(np.diff(beyond, axis=0)).mean()
        off[radius] = [np.abs(beyond.reshape(8, 64, 8, 64, 3).mean(axis=(1, 3))).mean(), steps]
    assert off[16][0] < 0.6 * off[0][0]
    assert off[16][1] < 0.3 * off[0][1]


def test_the_guard_keeps_the_source_s_detail(predictor: GeneratorPredictor, painting: Painting) -> None:
    source = painting.read(Region(256, 256, 512, 512))
    detail = {}
    for name, normalizer in (
        ("generator", GeneratorNormalizer(predictor, WHITE, 512)),
        ("guard", GuardNormalizer(predictor, WHITE, 512, radius=16)),
    ):
        block = painting.read(Region(256, 256, 512, 512).expand(normalizer.halo))
        artifact = normalizer.prepare(painting, STATISTICS)
        made = normalizer.apply(block, np.ones((2, 2), bool), artifact).astype(float)
        fine = [image - gaussian_filter(image, (2.0, 2.0, 0)) for image in (made, source.astype(float))]
        detail[name] = abs(np.corrcoef(fine[0].reshape(-1), fine[1].reshape(-1))[0, 1])
    assert detail["guard"] > detail["generator"] + 0.1  # this generator never learned which way round


def test_generated_is_what_the_untouched_network_gives(
    checkpoint_path: Path, predictor: GeneratorPredictor, painting: Painting
) -> None:
    checkpoint = Checkpoint.load(checkpoint_path)
    window = painting.read(Region(256, 256, 512, 256).expand(predictor.halo))
    template = apply_template(window, STATISTICS, checkpoint.contract.template)
    with torch.no_grad():
        y = checkpoint.generator(torch.from_numpy(template).permute(2, 0, 1)[None])[0]
    expected = (y.permute(1, 2, 0)[96:-96, 96:-96].numpy() + 1) * 127.5
    np.testing.assert_allclose(predictor.predict(window, STATISTICS).numpy(), expected, atol=2e-2)
    ((_, rounded),) = predictor.predict_all([window], STATISTICS, predictor.halo)
    assert np.abs(rounded - expected).max() <= 0.53


def test_a_coarser_generator_sees_and_makes_means_of_pixels(tmp_path: Path, painting: Painting) -> None:
    """What a generator of 2 x 2 px makes of a window is what one of single pixels makes of the window's means."""
    coarse, fine = (
        GeneratorPredictor(lively(tmp_path / f"{shrink}", shrink=shrink, downs=3), precision="float32")
        for shrink in (2, 1)
    )
    assert coarse.halo == 2 * fine.halo
    window = painting.read(Region(256, 256, 512, 256).expand(coarse.halo))
    means = window.reshape(window.shape[0] // 2, 2, -1, 2, 3).mean(axis=(1, 3))
    expected = fine.predict(np.floor(means + 0.5).astype(np.uint8), STATISTICS)
    assert torch.equal(coarse.predict(window, STATISTICS), expected)
    normalizer = GeneratorNormalizer(coarse, WHITE, 512)
    block = painting.read(Region(256, 256, 512, 256).expand(normalizer.halo))
    made = normalizer.apply(block, np.ones((1, 2), bool), normalizer.prepare(painting, STATISTICS))
    assert made.shape == (256, 512, 3)
    lines = torch.nn.functional.interpolate(expected.permute(2, 0, 1)[None], scale_factor=2, mode="bilinear")[0]
    inner = (slice(2, -2), slice(2, -2))  # beyond, what lies around counts too
    assert np.abs(made[inner] - lines.permute(1, 2, 0).numpy()[inner]).max() < 0.51


def test_a_coarser_generator_s_table_is_of_means(tmp_path: Path, painting: Painting) -> None:
    predictor = GeneratorPredictor(lively(tmp_path / "c", shrink=2, downs=3), precision="float32")
    table = TableFit(predictor, WHITE, 9, tiles=4)
    tile = TileIndex(*np.unravel_index(painting.tissue.argmax(), painting.tissue.shape))
    ((source, wanted),) = table._pairs(painting, [tile], STATISTICS)
    inner = tile_region(tile).expand(-32)
    means = painting.read(inner).reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))
    assert source.shape == wanted.shape == (96 * 96, 3)
    np.testing.assert_array_equal(source, np.floor(means + 0.5).reshape(-1, 3))


def test_what_holds_no_needed_tile_is_white(predictor: GeneratorPredictor, painting: Painting) -> None:
    normalizer = GeneratorNormalizer(predictor, WHITE, stride_px=512)
    source = painting.read(Region(0, 0, *painting.size).expand(normalizer.halo))
    needed = np.zeros(grid_shape(painting.size), bool)
    needed[2, 3] = True
    artifact = normalizer.prepare(painting, STATISTICS)
    some = normalizer.apply(source, needed, artifact)
    full = normalizer.apply(source, ~np.zeros_like(needed), artifact)
    inside = (slice(512, 768), slice(768, 1024))
    np.testing.assert_array_equal(some[inside], full[inside])
    some[inside] = WHITE
    assert (some == WHITE).all()


def test_a_value_that_is_no_number_is_an_error(checkpoint_path: Path, painting: Painting) -> None:
    checkpoint = Checkpoint.load(checkpoint_path)
    with torch.no_grad():
        next(iter(checkpoint.generator.parameters()))[0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="no numbers"):
        GeneratorPredictor(checkpoint, precision="float32").predict(
            painting.read(Region(256, 256, 256, 256).expand(96)), STATISTICS
        )


@pytest.mark.parametrize(
    "make",
    [lambda r: GeneratorNormalizer(r, WHITE), lambda r: LutNormalizer(TableFit(r, WHITE))],
    ids=["generator", "lut"],
)
def test_a_slide_of_another_resolution_is_refused(
    predictor: GeneratorPredictor, make: Callable[[GeneratorPredictor], GeneratorNormalizer | LutNormalizer]
) -> None:
    with pytest.raises(CheckpointError, match=r"0\.5 um/px"):
        make(predictor).prepare(Painting(mpp=Mpp(0.25, 0.25)), STATISTICS)


def test_the_table_follows_the_generator(predictor: GeneratorPredictor, painting: Painting) -> None:
    normalizer = LutNormalizer(TableFit(predictor, WHITE, size=9, tiles=15))
    artifact = normalizer.prepare(painting, STATISTICS)
    again = normalizer.prepare(painting, STATISTICS)
    assert artifact.keys() == again.keys()
    for name, array in artifact.items():
        np.testing.assert_array_equal(array, again[name])
    assert artifact[TABLE].shape == (9, 9, 9, 3)
    assert artifact[TILES].shape[1] == 2
    assert 0 < artifact[RESIDUAL] < 25
    assert unpack_statistics(artifact) == STATISTICS

    generated = GeneratorNormalizer(predictor, WHITE, 256)
    needed = np.ones(grid_shape(painting.size), bool)
    wanted = generated.apply(painting.read(Region(0, 0, *painting.size).expand(generated.halo)), needed, artifact)
    found = normalizer.apply(painting.pixels, needed, artifact)
    stained = painting.pixels.mean(axis=2) < 230
    untouched = np.abs(painting.pixels[stained].astype(int) - wanted[stained]).mean()
    assert np.abs(found[stained].astype(int) - wanted[stained]).mean() < 0.5 * untouched


def test_the_table_is_applied_where_needed_and_takes_white_to_white(
    predictor: GeneratorPredictor, painting: Painting
) -> None:
    normalizer = LutNormalizer(TableFit(predictor, WHITE, size=9, tiles=10))
    artifact = normalizer.prepare(painting, STATISTICS)
    needed = np.zeros(grid_shape(painting.size), bool)
    needed[1, 2:4] = needed[4, 5] = True
    found = normalizer.apply(painting.pixels, needed, artifact)
    expected = apply_table(artifact[TABLE], painting.pixels)
    for row, col in np.argwhere(needed):
        place = slice(row * 256, row * 256 + 256), slice(col * 256, col * 256 + 256)
        np.testing.assert_array_equal(found[place], expected[place])
    glass = np.full((256, 256, 3), np.round(STATISTICS.white), np.uint8)
    assert np.abs(normalizer.apply(glass, np.ones((1, 1), bool), artifact) - np.array(WHITE)).max() <= 1


@dataclass
class Map:
    """A slide of which only the grid matters; a tile's shade is its column."""

    tissue: NDArray[np.float32]
    mpp: Mpp = MPP

    @property
    def size(self) -> Size:
        return Size(self.tissue.shape[1] * 256, self.tissue.shape[0] * 256)

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.tissue >= 0

    def read(self, region: Region) -> Pixels:
        return np.full((region.height, region.width, 3), 50 + region.x // 256, np.uint8)


def test_chosen_tiles_are_spread_over_places_and_shades() -> None:
    tissue = np.full((61, 83), 0.9, np.float32)
    tissue[:, 40:] = 0.1
    chosen = choose_tiles(Map(tissue), 50)
    assert len(set(chosen)) == 50
    rows, cols = np.array(chosen).T
    assert cols.max() < 40
    assert np.histogram(rows, 4, (0, 61))[0].min() >= 5
    assert np.histogram(cols, 4, (0, 40))[0].min() >= 5
    assert np.histogram(cols[:12], 4, (0, 40))[0].min() >= 1  # any stretch is mixed
    assert chosen == choose_tiles(Map(tissue.copy()), 50)


def test_few_tiles_are_all_chosen_and_none_is_an_error() -> None:
    tissue = np.full((3, 5), -1, np.float32)
    tissue[1, 2], tissue[2, 4], tissue[0, 0] = 0.05, 0.2, 0.0
    assert sorted(choose_tiles(Map(tissue), 50)) == [TileIndex(1, 2), TileIndex(2, 4)]
    with pytest.raises(NoTissueError):
        choose_tiles(Map(np.zeros((3, 5), np.float32)), 50)


def test_a_normalizer_is_loaded_once_for_a_checkpoint(checkpoint_path: Path) -> None:
    config = NormalizeConfig(mode="generator")
    one = load_normalizer(config, checkpoint_path)
    assert isinstance(one, GeneratorNormalizer)
    assert one.white == WHITE
    assert load_normalizer(NormalizeConfig(mode="generator"), checkpoint_path) is one
    assert isinstance(load_normalizer(NormalizeConfig(mode="lut"), checkpoint_path, "cpu"), LutNormalizer)
    assert isinstance(load_normalizer(NormalizeConfig(mode="guard"), checkpoint_path), GuardNormalizer)


def test_colours_are_corrected_where_they_are_held_to_the_table(
    checkpoint_path: Path, painting: Painting, tmp_path: Path
) -> None:
    """What is shown as generated is compared with the table as it was fitted: the correction is nothing invented."""
    checkpoint, path = Checkpoint.load(checkpoint_path), tmp_path / "corrected.safetensors"
    darker = np.stack(np.meshgrid(*3 * [np.linspace(0, 240, 5)], indexing="ij"), axis=-1).astype(np.float32)
    save(path, checkpoint.generator, checkpoint.contract, darker)

    def fitted(source: Path, **config: Any) -> NDArray[np.float32]:
        table: NDArray[np.float32] = load_normalizer(
            NormalizeConfig(lut_tiles=10, precision="float32", **config), source
        ).prepare(painting, STATISTICS)[TABLE]
        return table

    plain = fitted(checkpoint_path, mode="lut")
    np.testing.assert_array_equal(fitted(path, mode="generator", hold_um=0), plain)
    for mode in ("lut", "generator", "guard"):
        corrected = fitted(path, mode=mode)
        assert np.abs(corrected - plain).mean() > 2
        np.testing.assert_array_equal(corrected, fitted(path, mode="lut"))


def test_threads_that_want_a_normalizer_at_once_load_it_once(
    checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def slow(checkpoint: Checkpoint, white: tuple[int, int, int], config: NormalizeConfig, device: str) -> Normalizer:
        loads.append(device)
        time.sleep(0.2)
        return IdentityNormalizer(white)

    monkeypatch.setitem(FACTORIES, "generator", slow)
    with ThreadPoolExecutor(4) as threads:
        config = NormalizeConfig(mode="generator")
        loaded = list(threads.map(lambda _: load_normalizer(config, checkpoint_path), range(4)))
    assert len(loads) == len(set(map(id, loaded))) == 1


def test_another_shape_is_no_second_generator(checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    begin = GeneratorPredictor.__init__

    def count(self: GeneratorPredictor, *arguments: Any) -> None:
        made.append(self)
        begin(self, *arguments)

    monkeypatch.setattr(GeneratorPredictor, "__init__", count)
    for stride_px in (512, 768):
        load_normalizer(NormalizeConfig(mode="generator", stride_px=stride_px, precision="float16"), checkpoint_path)
    assert len(made) == 1


def test_no_setting_leads_to_the_identity(identity: None, checkpoint_path: Path) -> None:
    assert isinstance(load_normalizer(NormalizeConfig(mode="generator"), checkpoint_path), IdentityNormalizer)
    with pytest.raises(ValidationError):
        NormalizeConfig.model_validate({"mode": "identity"})


def test_a_checkpoint_that_changed_is_refused(checkpoint_path: Path) -> None:
    with pytest.raises(CheckpointError, match="changed since the run began"):
        load_normalizer(NormalizeConfig(mode="lut"), checkpoint_path, "cpu", "0" * 64)


@pytest.mark.parametrize(("device", "mode"), [("cpu", "lut"), ("cuda", "generator"), ("cuda:1", "generator")])
def test_auto_goes_by_the_device(device: str, mode: str) -> None:
    assert NormalizeConfig().resolve_auto(device).mode == mode


def test_identity_gives_back_what_it_got(painting: Painting) -> None:
    identity = IdentityNormalizer()
    artifact = identity.prepare(painting, STATISTICS)
    found = identity.apply(painting.pixels, np.ones(grid_shape(painting.size), bool), artifact)
    np.testing.assert_array_equal(found, painting.pixels)


def test_an_artifact_comes_back_byte_for_byte(tmp_path: Path) -> None:
    artifact = {"b": np.arange(6.0).reshape(2, 3), "a": np.array(1.5), "empty": np.zeros((0, 2), np.int64)}
    save_artifact(tmp_path / "one", artifact)
    save_artifact(tmp_path / "two", dict(reversed(artifact.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found = load_artifact(tmp_path / "one")
    assert found.keys() == artifact.keys()
    for name, array in artifact.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x03\x04 cut"], ids=["missing", "empty", "text", "cut"])
def test_a_damaged_artifact_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(OutputError, match="not the artifact of a slide"):
        load_artifact(tmp_path / "a")
