"""`import wsi_stain` offers the parts that a notebook wants first, to people and to type checkers alike."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wsi_stain
from wsi_stain.store import TileStore


def names_for_type_checkers() -> set[str]:
    tree = ast.parse(Path(str(wsi_stain.__file__)).read_text(encoding="utf-8"))
    branches = [node for node in tree.body if isinstance(node, ast.If)]
    lines = [line for branch in branches for line in branch.body if isinstance(line, ast.ImportFrom)]
    return {alias.name for line in lines for alias in line.names}


def test_type_checkers_know_the_same_names() -> None:
    assert names_for_type_checkers() == set(wsi_stain._HOME_OF) <= set(dir(wsi_stain))
    for name in names_for_type_checkers():
        assert getattr(wsi_stain, name).__name__ == name
    assert wsi_stain.TileStore is TileStore


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'wsi_stain' has no attribute 'Tilestore'"):
        wsi_stain.Tilestore  # noqa: B018


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, wsi_stain; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_copy_that_was_never_installed_works(tmp_path: Path) -> None:
    """A bare tree on the path, of which no distribution is known, with nothing but the standard library beside it."""
    (tmp_path / "wsi_stain").symlink_to(Path(str(wsi_stain.__file__)).parent)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import wsi_stain; print(wsi_stain.__version__)"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == wsi_stain.__version__


def test_torch_is_loaded_only_by_what_needs_it() -> None:
    needing = {"NormalizedSlide", "StainAugment", "StainNormalize", "normalized_tiles"}
    others = sorted(set(wsi_stain._HOME_OF) - needing)
    code = f"import sys, wsi_stain; [getattr(wsi_stain, name) for name in {others}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
