"""What a command loads before it works: help nothing heavy, and what runs no network no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size
from wsi_stain.synthetic.slide import write_slide

_RUN = """
import sys
from pipelines.cli import app

def run(*arguments):
    sys.argv = ["wsi-stain", *arguments]
    try:
        app.main()
    except SystemExit as ended:
        return ended.code
"""


def list_loaded(code: str) -> set[str]:
    """Names of the packages that a process has loaded when it has run some code."""
    code = f"{_RUN}{code}\nprint('loaded', *{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_neither_numpy_nor_torch_nor_dask() -> None:
    assert not {"numpy", "torch", "dask", "distributed", "pydantic"} & list_loaded("run('--help')")


def test_inspect_and_tile_never_load_torch(tmp_path: Path) -> None:
    """Not even where this process does all the work of tiling."""
    write_slide(tmp_path / "a.tif", paint_tissue(Size(1100, 900)), 0.5)
    slide, store = str(tmp_path / "a.tif"), str(tmp_path / "store")
    code = f"assert run('inspect', {slide!r}) in (0, 3); assert run('tile', {slide!r}, '-s', {store!r}, '-j', '0') == 0"
    loaded = list_loaded(code)
    assert not {"torch", "torchvision", "dask", "distributed"} & loaded
    assert {"numpy", "openslide"} <= loaded
    assert (tmp_path / "store" / "zarr.json").exists()


def test_a_run_with_a_checkpoint_loads_nothing_of_training() -> None:
    """Neither the command nor a worker: torchvision brings all of torch's compiler, statistics half a second."""
    code = "import pipelines.run, wsi_stain.normalize.tasks; from pipelines.references import library"
    code += "; from wsi_stain.pix2pix.checkpoint import Checkpoint; Checkpoint.load(library.shipped_checkpoint())"
    told = f"{code}; print({{'scipy.stats', 'wsi_stain.training.loop'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{_RUN}{told}"], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert not {"torchvision", "sympy"} & list_loaded(code)
