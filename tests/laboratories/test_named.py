"""Named laboratories: their files, and what they make of colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cohort.test_reference import STAIN
from wsi_stain.core.errors import ConfigError
from wsi_stain.laboratories.colours import laboratory_table, laboratory_white, show_colours
from wsi_stain.laboratories.named import NamedLaboratory, load_laboratories, shipped_laboratories
from wsi_stain.normalizers.simulated.usual_slide import usual_stain
from wsi_stain.stain.colour_table import look_up

COLOURS = np.random.default_rng(0).uniform(30, 235, (2000, 3))


def write_table(path: Path, gain: float = 1.0) -> Path:
    nodes = np.stack(np.meshgrid(*[np.linspace(0, 255, 5)] * 3, indexing="ij"), axis=-1)
    np.savez(path, table=(gain * nodes).astype(np.float32), white=[240.0] * 3, wanted_white=[240.0 * gain] * 3)
    return path


@pytest.mark.parametrize("laboratory", shipped_laboratories(), ids=lambda laboratory: laboratory.name)
def test_each_shipped_laboratory_changes_what_it_says(laboratory: NamedLaboratory) -> None:
    assert laboratory.summary
    usual, there = usual_stain(NamedLaboratory(name="same")), usual_stain(laboratory)
    assert there.white == (laboratory.white or usual.white)
    if laboratory.hematoxylin_gain != 1:
        assert (there.h_nuclei > usual.h_nuclei) == (laboratory.hematoxylin_gain > 1)
    if laboratory.eosin_gain != 1:
        assert (there.e_stroma > usual.e_stroma) == (laboratory.eosin_gain > 1)
    shown = show_colours(laboratory, STAIN, COLOURS)
    assert 2 < np.abs(shown - COLOURS).mean() < 60
    apart = np.abs(look_up(laboratory_table(laboratory, STAIN), COLOURS) - shown)
    assert apart.mean() < 0.3 and np.percentile(apart, 99) < 1.5, "the table is the laboratory"


def test_glass_becomes_the_laboratorys_whatever_it_was() -> None:
    (faded,) = load_laboratories("faded")
    for white in ((240.0, 238.0, 241.0), (225.0, 230.0, 220.0)):
        stain = STAIN.model_copy(update={"white": white})
        assert show_colours(faded, stain, np.array([white]))[0] == pytest.approx(
            laboratory_white(faded, white), abs=0.5
        )


def test_a_scanners_table_is_looked_up_under_its_own_glass(tmp_path: Path) -> None:
    write_table(tmp_path / "t.npz", gain=0.9)
    (tmp_path / "mine.yaml").write_text("laboratories:\n  other-scanner: {table: t.npz, summary: measured}\n")
    (laboratory,) = load_laboratories(str(tmp_path / "mine.yaml"))
    stain = STAIN.model_copy(update={"white": (240.0, 240.0, 240.0)})
    assert show_colours(laboratory, stain, COLOURS) == pytest.approx(0.9 * COLOURS, abs=1e-3)
    assert laboratory_white(laboratory, stain.white) == (216.0, 216.0, 216.0)
    dim = STAIN.model_copy(update={"white": (120.0, 120.0, 120.0)})
    assert show_colours(laboratory, dim, np.array([dim.white]))[0] == pytest.approx([216.0] * 3, abs=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("laboratories: {a: {hue: 3}}", "a.hue: Extra inputs"),
        ("laboratories: {a: {eosin_gain: 0}}", "a.eosin_gain"),
        ("laboratories: {a/b: {}}", "name"),
        ("laboratories: {a: {table: none.npz}}", "no colour table of a scanner"),
        ("laboratories: {a: {table: t.npz, eosin_gain: 2.0}}", "leave out eosin_gain"),
        ("laboratories: 3", "no section `laboratories`"),
        ("{", "is not YAML"),
        ("laboratories: 2026-99-99", "is not YAML"),
        ("[" * 100_000, "is not YAML"),
        ("a: &a [x]\nb: [*a, *a]", "has an alias"),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(text: str, message: str, tmp_path: Path) -> None:
    write_table(tmp_path / "t.npz")
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_laboratories(str(tmp_path / "x.yaml"))


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError) as raised:
        load_laboratories("reference")
    assert "pale-eosin" in raised.value.remedy


def test_real_scanners_tables_are_laboratories(real_data: Path, tmp_path: Path) -> None:
    tables = sorted((real_data / "scanner_tables").glob("*.npz"))
    lines = [f"  {path.stem}: {{table: {path}}}" for path in tables]
    (tmp_path / "scanners.yaml").write_text("\n".join(["laboratories:", *lines]))
    laboratories = load_laboratories(str(tmp_path / "scanners.yaml"))
    assert len(laboratories) == len(tables) > 0
    for laboratory in laboratories:
        glass = show_colours(laboratory, STAIN, np.array([STAIN.white]))[0]
        assert glass == pytest.approx(laboratory_white(laboratory, STAIN.white), abs=1.0)
