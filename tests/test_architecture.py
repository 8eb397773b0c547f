"""The floors of the house: folders import only from floors below them, and headers keep their word."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
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
    ["wsi_stain.metrics", "wsi_stain.laboratories"],
    ["wsi_stain.store", "wsi_stain.pix2pix", "wsi_stain.pyramid", "wsi_stain.viewer", "wsi_stain.cohort"],
    ["wsi_stain.tiling", "wsi_stain.normalizers", "wsi_stain.datasets", "wsi_stain.results"],
    ["wsi_stain.normalize", "wsi_stain.training", "wsi_stain.report", "wsi_stain.verification"],
    ["wsi_stain.evaluation"],
    ["pipelines.shared"],
    ["pipelines.run_directory"],
    ["pipelines.normalization", "pipelines.exports"],
    ["pipelines"],
    ["pipelines.evaluate"],
    ["pipelines.cli"],
]
"""Folders, the lowest floor first. A folder imports from itself and from floors below it."""

FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}

MOST_MODULES = 12
"""In one folder, `__init__.py` not counted."""

ROOMS = {
    "dask": {"wsi_stain.executor.dask_cluster"},
    "distributed": {"wsi_stain.executor.dask", "wsi_stain.executor.dask_cluster"},
    "zarr": {
        "wsi_stain.formats.zarr_jpeg",
        "wsi_stain.slides.readers.zarr_reader",
        "wsi_stain.verification.readers.zarr",
    },
    "fastslide": {"wsi_stain.slides.readers.fastslide_reader"},
    "obstore": {"wsi_stain.core.storage"},
    "typer": {
        "pipelines.cli.app",
        "pipelines.cli.outputs",
        "pipelines.cli.simulate",
        "pipelines.cli.evaluate",
        "pipelines.cli.import_patches",
        "pipelines.cli.options",
        "pipelines.cli.reference",
    },
    "tornado": {"wsi_stain.viewer.server"},
    "yaml": {"wsi_stain.core.yaml_file"},
}
"""Libraries, and who may import them."""

TORCH = {f"wsi_stain.{name}" for name in ("pix2pix", "normalizers", "normalize", "training", "evaluation", "metrics")}
TORCH |= {"pipelines.shared.config", "pipelines.doctor", "pipelines.train"}
"""Folders and modules that may import torch."""

KNOWS = {
    "block": ["wsi_stain.formats.block_file"],
    "colour profile": ["PIL.ImageCms"],
    "dask": ["dask", "distributed"],
    "epoch": ["wsi_stain.training"],
    "executor": ["wsi_stain.executor"],
    "file": ["pathlib", "os", "shutil", "tifffile", "wsi_stain.core.journal", "wsi_stain.core.storage"],
    "format": ["tifffile", "zarr", "wsi_stain.formats", "wsi_stain.pyramid"],
    "generator": ["wsi_stain.pix2pix", "wsi_stain.normalizers.generator", "wsi_stain.normalizers.predictor"],
    "metadata": ["wsi_stain.formats.zarr_metadata"],
    "network": ["wsi_stain.pix2pix"],
    "openslide": ["openslide"],
    "page": ["jinja2", "wsi_stain.core.html"],
    "pixel": ["numpy"],
    "resolution": ["wsi_stain.slides.resolution"],
    "run": ["pipelines", "wsi_stain.results"],
    "shard": ["wsi_stain.formats.zarr_shard"],
    "slide": ["openslide", "wsi_stain.slides", "wsi_stain.store", "wsi_stain.tiling"],
    "stain": ["wsi_stain.stain"],
    "store": ["wsi_stain.store"],
    "template": ["wsi_stain.stain.statistics", "wsi_stain.stain.template"],
    "tile": ["wsi_stain.tissue.grid", "wsi_stain.tiling"],
    "tiling": ["wsi_stain.tiling"],
    "tissue": ["wsi_stain.tissue", "wsi_stain.tiling"],
    "torch": ["torch"],
}
"""What a module imports that knows something: `Knows no slides, files or torch.` in its header forbids it all."""


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


def imports(module: str, at_import: bool = False) -> set[str]:
    """Absolute names of everything a module imports, inside functions too; `from a import b` gives a and a.b.

    What the package's front door names for type checkers does not count: it imports a part when that is asked for.

    Args:
        module: Its name.
        at_import: Whether only what is imported together with the module is meant.
    """
    found: set[str] = set()
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    if module == "wsi_stain":
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    for node in tree.body if at_import else ast.walk(tree):
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


def loads(module: str) -> set[str]:
    """Everything that importing a module imports, directly or not."""
    loaded, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        packages = {name.rsplit(".", count)[0] for count in range(name.count(".") + 1)} & set(MODULES)
        new = {name, *(each for package in packages for each in imports(package, at_import=True))} - loaded
        loaded |= new
        waiting |= new & set(MODULES)
    return loaded


def is_within(name: str, packages: set[str] | list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def list_declarations() -> Iterator[tuple[str, str]]:
    """Modules, and each thing that their headers say they do not know; a package's header speaks for its modules."""
    for module, path in MODULES.items():
        header = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
        for sentence in re.findall(r"\bKnows? (?:no|nothing|neither)\b[^.]*\.", header):
            things = re.fullmatch(r"Knows no (.*)\.", sentence)
            assert things, f"{module}: write `Knows no slides, files or torch.`, not: {sentence}"
            meant = [name for name in MODULES if is_within(name, [module])]
            for thing in re.split(r", | or | and ", things[1]):
                yield from ((name, thing) for name in (meant if path.name == "__init__.py" else [module]))


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


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_folders_are_small_and_say_their_purpose(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("library", ROOMS)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    users = {module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))}
    assert users <= ROOMS[library]


def test_torch_stays_in_its_rooms() -> None:
    users = {module for module in MODULES if any(name.split(".")[0] == "torch" for name in imports(module))}
    assert {module for module in users if not is_within(module, TORCH)} == set()


@pytest.mark.parametrize(("module", "thing"), [pytest.param(*each, id="-".join(each)) for each in list_declarations()])
def test_headers_are_true(module: str, thing: str) -> None:
    """What a module is said not to know it does not import; torch not even by what it imports."""
    known = loads(module) if thing == "torch" else imports(module)
    forbidden = KNOWS.get(thing.lower()) or KNOWS[thing.lower().removesuffix("s")]
    assert not {name for name in known if is_within(name, forbidden) and not is_within(name, [module])}


def test_links_are_followed_in_one_place() -> None:
    """`Path.resolve` raises where a link leads to itself; `real_path` goes as far as links lead."""
    calls = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "resolve"
    }
    assert calls <= {"wsi_stain.core.storage"}


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
