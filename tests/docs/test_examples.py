"""Every Python example of the README and of docs/ runs, block after block as a reader would paste them."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue, store_slide
from tests.support.patch_files import cut_patches, idc_patient, import_source
from tests.support.patch_files import tissue as tissue_pixels
from tests.support.s3_server import s3_endpoint, upload
from wsi_stain.core.geometry import Size
from wsi_stain.datasets.idc import IdcPatient
from wsi_stain.datasets.images import find_folders
from wsi_stain.formats.block_file import JpegConfig, write_block
from wsi_stain.formats.icc_table import encode_icc
from wsi_stain.synthetic.slide import write_slide

ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(document: Path) -> list[str]:
    """The document's Python blocks, each on its own lines, so that an error names the right one."""
    text = document.read_text(encoding="utf-8")
    return ["\n" * text[: found.start(1)].count("\n") + found[1] for found in _BLOCK.finditer(text)]


DOCUMENTS = [document for document in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))] if examples(document)]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory with the stores and the checkpoint that the examples speak of, the first store on S3 too."""
    tissue = np.ones((3, 6), np.float32)
    tissue[0] = (0, 0.2, 0.4, 0.6, 0.8, 1)
    for name in ("a", "b"):
        store_slide(tmp_path / "tiles.zarr", name, paint_tissue(Size(1500, 700)), tissue)
    store_slide(tmp_path / "compressed.zarr", "a", paint_tissue(Size(600, 400)), codec="jpeg")
    idc_patient(tmp_path / "idc", "10253", tissue_pixels())
    import_source(IdcPatient(tmp_path / "idc" / "10253"), tmp_path / "patches.zarr")
    write_block(tmp_path / "0_0.block", paint_tissue(Size(600, 400)), np.ones((2, 3), bool), JpegConfig())
    write_untrained(tmp_path / "training" / "checkpoint.safetensors", mpp=0.25)
    write_slide(tmp_path / "slide.svs", paint_tissue(Size(1500, 700)), 0.25, style="svs")
    levels = np.linspace(0, 255, 3, dtype=np.float32)
    identity = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    (tmp_path / "slide.icc").write_bytes(encode_icc(identity, "slide"))
    monkeypatch.chdir(tmp_path)
    with s3_endpoint():
        upload(tmp_path / "tiles.zarr", "tiles.zarr")
        yield


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("document", DOCUMENTS, ids=[document.name for document in DOCUMENTS])
def test_every_example_runs(document: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in examples(document):
        exec(compile(block, document, "exec"), names)


SCRIPTS = {
    "normalize_for_training": ["tiles.zarr", "training/checkpoint.safetensors"],
    "look_at_a_store": ["tiles.zarr", "training/checkpoint.safetensors", "look.png"],
    "show_steps": ["tiles.zarr", "a", "training/checkpoint.safetensors", "steps.png"],
    "pathorob_folders": ["parquet", "PathoROB"],
}


def test_every_script_has_its_arguments() -> None:
    scripts = {path.stem for path in ROOT.glob("docs/examples/*.py")}
    assert {name for name in scripts if not name.endswith("_reader")} == set(SCRIPTS)  # readers: test_feature_tools


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs(name: str) -> None:
    if name == "pathorob_folders":
        write_pathorob(Path("parquet"))
    script = ROOT / "docs" / "examples" / f"{name}.py"
    command = [sys.executable, "-W", "error::UserWarning", str(script), *SCRIPTS[name]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = {
        "normalize_for_training": "tiles of ['a', 'b']: mean",
        "look_at_a_store": "resolution: 0.25 um/px",
        "show_steps": "steps.png: source, template, generator, lut",
        "pathorob_folders": "12 pictures of 2 centres in PathoROB",
    }
    assert said[name] in ended.stdout
    if name == "look_at_a_store":
        with Image.open("look.png") as picture:
            assert picture.size == (6 * 256, 4 * 256)
    if name == "pathorob_folders":
        (slide,) = find_folders(Path("PathoROB/RUMC"), labelled=True)
        placed = [patch for patch in slide.listing().patches if patch.region]
        assert [patch.label for patch in placed] == 3 * ["normal"] + 3 * ["tumor"]
        shown = {patch.name: read for patch, read in slide.read(placed)}
        assert (shown["normal/RUMC-4.png"] == cut_patches(tissue_pixels(), 96)[4]).all()


def write_pathorob(folder: Path) -> None:
    """A Parquet file with the columns of PathoROB's: a slide a centre, three patches a class."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = []
    for centre in ("RUMC", "UMCU"):
        for number, patch in enumerate(cut_patches(tissue_pixels(), 96)[:6]):
            encoded = io.BytesIO()
            Image.fromarray(patch).save(encoded, "PNG")
            rows.append(
                {
                    "image": {"bytes": encoded.getvalue(), "path": None},
                    "medical_center": centre,
                    "slide_id": f"{centre}_slide",
                    "biological_class": ("normal", "tumor")[number % 2],
                    "patch_id": f"{centre}-{number}",
                }
            )
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")


def test_the_store_has_examples() -> None:
    assert len(examples(ROOT / "docs" / "tile-store.md")) >= 10
