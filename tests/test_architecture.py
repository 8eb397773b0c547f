"""The floors of the house: imports go down, or along one floor without cycles."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

GROUND = """
wsi_stain
wsi_stain.digest
wsi_stain.errors
wsi_stain.geometry
wsi_stain.journal
wsi_stain.lease
wsi_stain.place
wsi_stain.replicas
wsi_stain.settings
"""
PARTS = """
wsi_stain.artifact
wsi_stain.augment
wsi_stain.baselines
wsi_stain.block_output
wsi_stain.block_tiles
wsi_stain.blockfile
wsi_stain.checkpoint
wsi_stain.chunks
wsi_stain.colour_bins
wsi_stain.colour_memo
wsi_stain.colour_table
wsi_stain.csv_file
wsi_stain.device_errors
wsi_stain.dicom
wsi_stain.executor
wsi_stain.executor.config
wsi_stain.executor.dask_executor
wsi_stain.executor.driving
wsi_stain.executor.serial
wsi_stain.executor.tasks
wsi_stain.executor.workforce
wsi_stain.feather
wsi_stain.generator_output
wsi_stain.grid
wsi_stain.guided
wsi_stain.html
wsi_stain.jpeg_tiles
wsi_stain.likeness
wsi_stain.masks
wsi_stain.metrics
wsi_stain.nuclei
wsi_stain.onnx_export
wsi_stain.openslide_handle
wsi_stain.output
wsi_stain.overlay
wsi_stain.pix2pix
wsi_stain.pix2pix.batchnorm
wsi_stain.pix2pix.discriminator
wsi_stain.pix2pix.frozen
wsi_stain.pix2pix.generator
wsi_stain.pix2pix.initialization
wsi_stain.pix2pix.optimization
wsi_stain.precision
wsi_stain.pyramid.dicom_source
wsi_stain.pyramid.ome_tiff
wsi_stain.pyramid.ome_xml
wsi_stain.pyramid.ome_zarr
wsi_stain.quality
wsi_stain.reader
wsi_stain.recolourer
wsi_stain.resampling
wsi_stain.resolution
wsi_stain.seams
wsi_stain.shard
wsi_stain.slide
wsi_stain.slide_file
wsi_stain.slide_list
wsi_stain.slide_search
wsi_stain.slides
wsi_stain.stain
wsi_stain.stain_pool
wsi_stain.stain_vectors
wsi_stain.store
wsi_stain.store.cards
wsi_stain.store.checking
wsi_stain.store.reading
wsi_stain.store.record
wsi_stain.store.tile_store
wsi_stain.store.tiled
wsi_stain.store.writing
wsi_stain.style
wsi_stain.suspects
wsi_stain.synthetic
wsi_stain.synthetic.canvas
wsi_stain.synthetic.cohort
wsi_stain.synthetic.laboratory
wsi_stain.synthetic.scanner
wsi_stain.synthetic.slide
wsi_stain.synthetic.tissue
wsi_stain.table_output
wsi_stain.tissue
wsi_stain.unexplained
wsi_stain.verification.faults
wsi_stain.verification.openslide_reading
wsi_stain.verification.pyramid_check
wsi_stain.verification.pyramid_reader
wsi_stain.verification.tiff_reading
wsi_stain.verification.zarr_reading
wsi_stain.windows
wsi_stain.zarr_files
wsi_stain.zarr_jpeg
"""
STAGES = """
wsi_stain.dataset
wsi_stain.evaluation
wsi_stain.evaluation.auc
wsi_stain.evaluation.classifier
wsi_stain.evaluation.cohort
wsi_stain.evaluation.figures
wsi_stain.evaluation.labelled
wsi_stain.evaluation.methods
wsi_stain.evaluation.pairs
wsi_stain.evaluation.picture
wsi_stain.evaluation.places
wsi_stain.finished
wsi_stain.identity
wsi_stain.imports
wsi_stain.imports.idc
wsi_stain.imports.images
wsi_stain.imports.importing
wsi_stain.imports.mosaic
wsi_stain.imports.patches
wsi_stain.imports.pcam
wsi_stain.imports.pictures
wsi_stain.inference
wsi_stain.looking
wsi_stain.looks
wsi_stain.normalized_slide
wsi_stain.patch_files
wsi_stain.pyramid
wsi_stain.pyramid.dicom
wsi_stain.pyramid.stitching
wsi_stain.region_normalizer
wsi_stain.report
wsi_stain.report.charts
wsi_stain.report.cohort
wsi_stain.report.colours
wsi_stain.report.fields
wsi_stain.report.outliers
wsi_stain.report.page
wsi_stain.report.pictures
wsi_stain.report.rows
wsi_stain.report.sheet
wsi_stain.report.summary
wsi_stain.report.training
wsi_stain.restaining
wsi_stain.stain_normalize
wsi_stain.stain_sample
wsi_stain.streaming
wsi_stain.survey
wsi_stain.tiling
wsi_stain.training
wsi_stain.training_config
wsi_stain.training_data
wsi_stain.training_log
wsi_stain.training_state
wsi_stain.verification
wsi_stain.verification.source_check
wsi_stain.verification.tasks
wsi_stain.viewer
wsi_stain.viewer.cases
wsi_stain.viewer.server
wsi_stain.viewer.tiles
wsi_stain.yardsticks
"""
RUNS = """
pipelines
pipelines.cli_evaluate
pipelines.cli_import
pipelines.config
pipelines.demo
pipelines.device
pipelines.doctor
pipelines.evaluate
pipelines.evaluate.cohort
pipelines.evaluate.methods
pipelines.evaluate.pairing
pipelines.evaluate.pairs
pipelines.evaluate.results
pipelines.evaluate.tasks
pipelines.evaluate.transfer
pipelines.export
pipelines.import_patches
pipelines.inspect
pipelines.left
pipelines.model
pipelines.normalization
pipelines.normalize
pipelines.normalize_any
pipelines.opening
pipelines.options
pipelines.plans
pipelines.products
pipelines.progress
pipelines.report
pipelines.restain
pipelines.results
pipelines.run
pipelines.stored
pipelines.tables
pipelines.tile
pipelines.train
pipelines.verify
pipelines.view
pipelines.workspace
"""
FLOORS = [GROUND, PARTS, STAGES, RUNS, "pipelines.cli"]
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules.split()}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for package in ("wsi_stain", "pipelines") for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Absolute names of everything a module imports, inside functions too; `from a import b` gives a and a.b.

    What the package's front door names for type checkers does not count: it imports a part when that is asked for.
    """
    found: set[str] = set()
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    if module == "wsi_stain":
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own_imports(module: str) -> set[str]:
    """The project's modules that a module imports; a package counts only when nothing within it is meant."""
    named = imports(module) & set(MODULES)
    return {name for name in named if not any(other.startswith(f"{name}.") for other in named)} - {module}


def test_every_module_has_a_floor() -> None:
    assert set(MODULES) == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_imports_never_go_up(module: str) -> None:
    too_high = {name for name in own_imports(module) if FLOOR_OF[name] > FLOOR_OF[module]}
    assert not too_high


def test_there_are_no_cycles() -> None:
    tuple(TopologicalSorter({module: own_imports(module) for module in MODULES}).static_order())


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        pytest.param("distributed", {"wsi_stain.executor.dask_executor"}, id="distributed"),
        pytest.param("dask", {"wsi_stain.executor.dask_executor"}, id="dask"),
        pytest.param(
            "zarr",
            {"wsi_stain.zarr_jpeg", "wsi_stain.verification.zarr_reading"},
            id="zarr: its files are written by hand",
        ),
        pytest.param("obstore", {"wsi_stain.place"}, id="obstore"),
        pytest.param(
            "typer",
            {"pipelines.cli", "pipelines.cli_evaluate", "pipelines.cli_import", "pipelines.options"},
            id="typer",
        ),
        pytest.param("tornado", {"wsi_stain.viewer.server"}, id="tornado"),
        pytest.param("yaml", {"pipelines.config"}, id="yaml"),
    ],
)
def test_libraries_stay_in_their_rooms(library: str, allowed: set[str]) -> None:
    users = {module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))}
    assert users <= allowed


@pytest.mark.parametrize(
    "module", ["pix2pix.generator", "pix2pix.frozen", "pix2pix.discriminator", "pix2pix.optimization"]
)
def test_networks_know_neither_slides_nor_files(module: str) -> None:
    known = own_imports(f"wsi_stain.{module}")
    assert {name for name in known if not name.startswith("wsi_stain.pix2pix")} <= {
        "wsi_stain.errors",
        "wsi_stain.replicas",
        "wsi_stain.settings",
    }


@pytest.mark.parametrize(
    "module",
    [
        "wsi_stain.tiling",
        "wsi_stain.streaming",
        "wsi_stain.imports.importing",
        "wsi_stain.executor",
        "pipelines.doctor",
    ],
)
def test_workers_that_tile_never_import_torch(module: str) -> None:
    code = f"import sys, {module} as m; [getattr(m, name) for name in dir(m)]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
