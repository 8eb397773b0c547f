"""Several formats of one slide: made together or one by one, kept, added, and never left stale."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipelines import normalize
from pipelines.shared.config import RunConfig, load_config
from pipelines.shared.formats import SUFFIXES, Format
from tests.support.files_below import digests
from tests.support.forked import fork_command
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import Size
from wsi_stain.executor import ExecutorConfig
from wsi_stain.pix2pix.checkpoint import save
from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.contract import Contract
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.stain.template import Template

pytestmark = pytest.mark.filterwarnings("ignore:get_frame_offsets is deprecated:DeprecationWarning")

ALL: tuple[Format, ...] = ("ome-tiff", "ome-zarr", "dicom")
NAMES = {kind: f"slides/a{SUFFIXES[kind]}" for kind in ALL}


@dataclass(frozen=True)
class Laboratory:
    """A store of one slide, and a checkpoint that nobody trained."""

    store: Path
    checkpoint: Path

    def normalize(self, out: Path, *formats: str, workers: int = 0, quality: int = 90) -> str:
        """Run the command; returns what it printed."""
        config = RunConfig.model_validate(
            {
                "formats": formats,
                "normalize": {"mode": "generator", "stride_px": 512},
                "jpeg": {"quality": quality},
                "executor": ExecutorConfig(workers=workers),
            }
        )
        told = io.StringIO()
        console = Console(file=told, width=200)
        assert normalize.run(normalize.Request(self.store, self.checkpoint, None, out, config), console) == 0
        return told.getvalue()


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    root = tmp_path_factory.mktemp("laboratory")
    slide = store_slide(root / "store", "a", paint_tissue(Size(900, 600)))
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(downs=3, ngf=4)).eval()
    assert slide.record.stain is not None
    template = Template(kind="gray", reference=slide.record.stain)
    contract = Contract(
        generator=generator.config, template=template, mpp=0.25, training_fingerprint="0" * 64, version="0"
    )
    save(root / "c.safetensors", generator, contract)
    return Laboratory(root / "store", root / "c.safetensors")


@pytest.fixture(scope="module")
def whole(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run that made all formats at once."""
    out = tmp_path_factory.mktemp("whole")
    laboratory.normalize(out, *ALL)
    return out


def of_kind(found: dict[str, str], kind: str) -> dict[str, str]:
    """Those of one product."""
    name = NAMES[kind].removeprefix("slides/")
    return {path: digest for path, digest in found.items() if path == name or path.startswith(f"{name}/")}


def row(out: Path) -> dict[str, str]:
    header, line = (out / "summary.csv").read_text().splitlines()
    return dict(zip(header.split(","), line.split(","), strict=True))


def times(out: Path, kind: str) -> int:
    return (out / NAMES[kind]).stat().st_mtime_ns


def test_all_formats_at_once_leave_products_and_receipts_and_nothing_else(whole: Path) -> None:
    assert sorted(path.name for path in (whole / "slides").iterdir()) == ["a.dicom", "a.ome.tif", "a.ome.zarr"]
    place = whole / "work" / "slides" / "a"
    left = {path.name for path in place.iterdir()}
    assert left >= {"dicom.json", "ome-tiff.json", "ome-zarr.json", "row.json"} and "blocks" not in left
    found = row(whole)
    assert found["output"] == NAMES["ome-tiff"]
    assert found["other_outputs"].split("; ") == [NAMES["ome-zarr"], NAMES["dicom"]]
    page = (whole / "report" / "index.html").read_text()
    assert all(f'href="../{name}"' in page for name in NAMES.values())


@pytest.mark.parametrize("kind", ALL)
def test_each_format_alone_has_the_same_bytes(laboratory: Laboratory, whole: Path, tmp_path: Path, kind: str) -> None:
    laboratory.normalize(tmp_path, kind)
    expected = of_kind(digests(whole / "slides"), kind)
    assert digests(tmp_path / "slides") == expected, "and an intermediate TIFF is not left over"
    assert row(tmp_path)["output"] == NAMES[kind]
    pictures = [out / "report" / "before-after.jpg" for out in (tmp_path, whole)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(laboratory: Laboratory, whole: Path, tmp_path: Path) -> None:
    laboratory.normalize(tmp_path, *ALL, workers=2)
    assert digests(tmp_path / "slides") == digests(whole / "slides")


def test_dicom_is_added_to_a_finished_slide_by_copy(laboratory: Laboratory, whole: Path, tmp_path: Path) -> None:
    laboratory.normalize(tmp_path, "ome-tiff")
    artifact, tiff = tmp_path / "work" / "slides" / "a" / "artifact.npz", times(tmp_path, "ome-tiff")
    artifact.unlink()  # what a slide that is normalized again would make again
    laboratory.normalize(tmp_path, "ome-tiff", "dicom")
    assert not artifact.exists() and times(tmp_path, "ome-tiff") == tiff
    assert of_kind(digests(tmp_path / "slides"), "dicom") == of_kind(digests(whole / "slides"), "dicom")
    assert row(tmp_path)["other_outputs"] == NAMES["dicom"]


def test_ome_zarr_is_added_by_normalizing_again_and_says_so(
    laboratory: Laboratory, whole: Path, tmp_path: Path
) -> None:
    laboratory.normalize(tmp_path, "ome-tiff")
    tiff = times(tmp_path, "ome-tiff")
    told = laboratory.normalize(tmp_path, "ome-tiff", "ome-zarr")
    assert "a.svs: no whole ome-zarr: normalizing it again" in told
    assert times(tmp_path, "ome-tiff") == tiff, "what stands is kept"
    assert of_kind(digests(tmp_path / "slides"), "ome-zarr") == of_kind(digests(whole / "slides"), "ome-zarr")


def test_asking_for_less_keeps_what_stands_and_names_what_was_asked_for(
    laboratory: Laboratory, whole: Path, tmp_path: Path
) -> None:
    laboratory.normalize(tmp_path, *ALL)
    laboratory.normalize(tmp_path, "dicom")
    assert digests(tmp_path / "slides") == digests(whole / "slides")
    assert (row(tmp_path)["output"], row(tmp_path)["other_outputs"]) == (NAMES["dicom"], "")


def test_no_product_of_other_settings_stays(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.normalize(tmp_path, *ALL)
    before = digests(tmp_path / "slides")
    laboratory.normalize(tmp_path, "ome-zarr", quality=80)
    after = digests(tmp_path / "slides")
    assert set(after) == set(of_kind(before, "ome-zarr")), "not even of formats that are not asked for now"


def test_a_slide_that_fails_under_other_settings_leaves_no_product(laboratory: Laboratory, tmp_path: Path) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    own = Laboratory(store, laboratory.checkpoint)
    store_slide(store, "a", paint_tissue(Size(900, 600)))
    own.normalize(out, *ALL)
    (shard,) = (store / "a" / "0" / "c").rglob("0/0/0")
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(AssertionError):
        own.normalize(out, *ALL, quality=80)
    assert row(out)["status"] == "failed"
    assert digests(out / "slides") == {}


@pytest.mark.parametrize("kind", ALL)
def test_a_damaged_product_is_made_again(laboratory: Laboratory, whole: Path, tmp_path: Path, kind: str) -> None:
    laboratory.normalize(tmp_path, *ALL)
    product = tmp_path / NAMES[kind]
    file = max(product.rglob("*"), key=lambda path: path.stat().st_size) if product.is_dir() else product
    file.write_bytes(file.read_bytes()[:-1])
    laboratory.normalize(tmp_path, *ALL)
    assert digests(tmp_path / "slides") == digests(whole / "slides")


STEPS = {
    "a shard": "before-rename:14",
    "a block's receipt": "before-rename:17",
    "in the TIFF": "stitch-block:1",
    "in the OME-Zarr": "stitch-block:2",
    "OME-Zarr's final name": "before-rename:23",
    "DICOM's final name": "before-rename:25",
    "what is kept of the slide": "before-rename:26",
    "row": "before-rename:27",
}


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param(failpoint, id=step, marks=() if step in ("a shard", "in the OME-Zarr") else pytest.mark.slow)
        for step, failpoint in STEPS.items()
    ],
)
def test_killed_and_run_again_gives_the_same_bytes(
    laboratory: Laboratory, whole: Path, tmp_path: Path, failpoint: str
) -> None:
    command = ["normalize", laboratory.store, "--checkpoint", laboratory.checkpoint, "-o", tmp_path, "-j", 0]
    command += ["--mode", "generator", "-c", tmp_path / "c.yaml"]
    (tmp_path / "c.yaml").write_text("normalize: {stride_px: 512}")
    formats = [part for kind in ALL for part in ("--format", kind)]
    killed = fork_command(*command, *formats, WSI_STAIN_FAILPOINT=failpoint).wait()
    assert killed.code == -9, killed.out
    laboratory.normalize(tmp_path, *ALL)
    assert digests(tmp_path / "slides") == digests(whole / "slides")
    assert not list((tmp_path / "slides").glob("*.partial"))


def test_a_format_that_cannot_be_written_stops_the_run_before_it_begins(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wsidicomizer", None)
    with pytest.raises(ConfigError, match=r"wsi-stain\[dicom\]"):
        laboratory.normalize(tmp_path / "out", "ome-tiff", "dicom")
    assert not (tmp_path / "out" / "slides").exists()


def test_formats_are_named_once_each_and_known() -> None:
    assert load_config("small").formats == ("ome-tiff",)
    assert load_config("small", {"formats": ["dicom", "ome-zarr", "dicom"]}).formats == ("dicom", "ome-zarr")
    with pytest.raises(ConfigError, match="ome-tiff"):
        load_config("small", {"formats": ["png"]})
    with pytest.raises(ConfigError, match="formats"):
        load_config("small", {"formats": []})
