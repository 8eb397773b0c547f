"""The floors of the house: imports go down, or along one floor without cycles."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = [
    ["wsi_stain.core"],
    [
        "wsi_stain.slides",
        "wsi_stain.stain",
        "wsi_stain.tissue",
        "wsi_stain.formats",
        "wsi_stain.executor",
        "wsi_stain.synthetic",
    ],
    ["wsi_stain.store", "wsi_stain.pix2pix", "wsi_stain.metrics", "wsi_stain.pyramid", "wsi_stain.viewer"],
    ["wsi_stain.tiling", "wsi_stain.normalizers", "wsi_stain.datasets", "wsi_stain.results"],
    ["wsi_stain.normalize", "wsi_stain.training", "wsi_stain.report", "wsi_stain.verification"],
    ["wsi_stain.evaluation"],
    ["pipelines.shared"],
    ["pipelines.run_directory"],
    ["pipelines.normalization"],
    ["pipelines"],
    ["pipelines.evaluate"],
    ["pipelines.cli"],
]
"""Folders, the lowest floor first. A folder imports from itself and from floors below it."""

FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}


def folder_of(module: str) -> str:
    """The longest folder of FLOORS that a module lies in; the package `wsi_stain` itself is its own front door."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in FLOOR_OF), module)


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


def test_every_folder_has_a_floor() -> None:
    assert {folder_of(module) for module in MODULES} == {*FLOOR_OF, "wsi_stain"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    """Into lower floors, or within the folder; anybody may ask the front door for the version."""
    folder = folder_of(module)
    wrong = {name for name in own_imports(module) if folder_of(name) not in (folder, "wsi_stain")}
    wrong = {name for name in wrong if FLOOR_OF[folder_of(name)] >= FLOOR_OF.get(folder, 0)}
    assert not wrong


def test_there_are_no_cycles() -> None:
    tuple(TopologicalSorter({module: own_imports(module) for module in MODULES}).static_order())


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        pytest.param("distributed", {"wsi_stain.executor.dask"}, id="distributed"),
        pytest.param("dask", {"wsi_stain.executor.dask"}, id="dask"),
        pytest.param(
            "zarr",
            {"wsi_stain.formats.zarr_jpeg", "wsi_stain.verification.readers.zarr"},
            id="zarr: its files are written by hand",
        ),
        pytest.param("obstore", {"wsi_stain.core.storage"}, id="obstore"),
        pytest.param(
            "typer",
            {"pipelines.cli.app", "pipelines.cli.evaluate", "pipelines.cli.import_patches", "pipelines.cli.options"},
            id="typer",
        ),
        pytest.param("tornado", {"wsi_stain.viewer.server"}, id="tornado"),
        pytest.param("yaml", {"pipelines.shared.config"}, id="yaml"),
    ],
)
def test_libraries_stay_in_their_rooms(library: str, allowed: set[str]) -> None:
    users = {module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))}
    assert users <= allowed


@pytest.mark.parametrize(
    "module", ["pix2pix.generator", "pix2pix.inference_generator", "pix2pix.discriminator", "pix2pix.step"]
)
def test_networks_know_neither_slides_nor_files(module: str) -> None:
    known = own_imports(f"wsi_stain.{module}")
    assert {name for name in known if not name.startswith("wsi_stain.pix2pix")} <= {
        "wsi_stain.core.errors",
        "wsi_stain.pix2pix.distributed",
        "wsi_stain.core.records",
    }


@pytest.mark.parametrize(
    "module",
    [
        "wsi_stain.tiling.tasks",
        "wsi_stain.tiling.streamed_slide",
        "wsi_stain.datasets.importing",
        "wsi_stain.executor",
        "pipelines.doctor",
    ],
)
def test_workers_that_tile_never_import_torch(module: str) -> None:
    code = f"import sys, {module} as m; [getattr(m, name) for name in dir(m)]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
