"""Names as bad as file systems allow: every command does its work, and none reaches a terminal or a page raw."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.closed_folder import folder_for_nobody, without_rights
from tests.support.commands import Ended, Run
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue
from tests.support.viewed import open_viewer, pyramid
from wsi_stain.core.geometry import Size

HOSTILE = "\x1b[31m\x9b2J\u202egnp\u200b\nerror: forged\t\x07"
LONGEST = f"{HOSTILE}{'x' * (251 - len(HOSTILE.encode()))}.svs"
RESERVED = 'nul<>:"|?*\\ .svs'
FOLDER = f"{HOSTILE}. "
_RAW = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides that can be used, among them one with a name of 255 bytes, a link to itself, and no slide."""
    folder = tmp_path_factory.mktemp("names") / "slides"
    pixels = paint_tissue(Size(700, 900), 1)
    for name in (LONGEST, RESERVED, f"{FOLDER}/plain.svs"):
        pyramid(folder / name, pixels)
    (folder / f"{HOSTILE}itself.svs").symlink_to(folder / f"{HOSTILE}itself.svs")
    (folder / f"{HOSTILE}text.svs").write_text("no slide")
    return folder


@pytest.fixture(scope="module")
def checkpoint(slides: Path) -> Path:
    return write_untrained(slides.parent / f"{HOSTILE}.safetensors")


def raw(text: str) -> list[str]:
    """Lines that hold what a terminal would obey or not show."""
    return [line for line in text.splitlines() if any(unicodedata.category(letter) in _RAW for letter in line)]


def check(ended: Ended, code: int) -> None:
    assert (ended.code, raw(ended.out), raw(ended.err)) == (code, [], []), ended
    assert "\nerror: forged" not in ended.out + ended.err


def written(folder: Path) -> Iterator[tuple[str, str]]:
    """Every name below a folder, and the text of what people read there."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        yield name, name
        if path.suffix in {".csv", ".html", ".json", ".log"}:
            yield name, path.read_text(encoding="utf-8")


def check_files(folder: Path) -> None:
    assert {name: lines for name, text in written(folder) if (lines := raw(text))} == {}


@pytest.mark.parametrize("portable", [False, True])
def test_a_run_does_them_and_verify_report_and_view_show_them(
    slides: Path, checkpoint: Path, wsi_stain: Run, tmp_path: Path, identity: None, portable: bool
) -> None:
    out = tmp_path / "out"
    options = ["--portable-names"] if portable else []
    command = ("run", slides, "--checkpoint", checkpoint, "-o", out, "-c", "small", "-j", 0, *options)
    ended = wsi_stain(*command)
    check(ended, 3)
    assert "3 done" in ended.out and "2 failed" in ended.out and "please report" not in ended.out
    check_files(out)
    pyramids = [path.relative_to(out / "slides").as_posix() for path in (out / "slides").rglob("*.ome.tif")]
    assert len(pyramids) == 3
    if portable:
        assert not any(set(name) & set('<>:"|?*\\') for name in pyramids)
        assert not any(
            part.endswith((".", " ")) or part.lower().startswith("nul.") for n in pyramids for part in n.split("/")
        )
    check(wsi_stain(*command), 3)  # keeps what is there
    check(wsi_stain("verify", out, "-j", 0), 0)
    check(wsi_stain("report", out), 0)
    check_files(out)
    with open_viewer(out, "--no-browser") as viewer:
        page = viewer.get().body.decode()
        assert raw(page) == [] and "\\x1b[31m" in page
        assert [len(viewer.get(f"cases/{number}").json["panes"]) for number in range(5)].count(2) == 3


def test_commands_that_look_or_tile_show_them_escaped(slides: Path, wsi_stain: Run, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    ended = wsi_stain("inspect", slides, "-j", 0, "--csv", table, "--overlay", tmp_path / "overlay")
    check(ended, 3)
    assert "Too many levels of symbolic links" in ended.out
    check(wsi_stain("tile", slides, "-s", tmp_path / "store", "-j", 0, "-c", "small"), 3)
    check(wsi_stain("tile", slides, "-s", tmp_path / "store", "-j", 0, "-c", "small", "--dry-run"), 3)
    check_files(tmp_path)


def test_patches_are_imported_and_written_again(checkpoint: Path, wsi_stain: Run, tmp_path: Path) -> None:
    folder = tmp_path / "patches" / f"{HOSTILE}slide" / f"{HOSTILE}label"
    folder.mkdir(parents=True)
    pixels = paint_tissue(Size(256, 256), 2)
    for name in (f"{LONGEST[:-4]}.png", "a:b.png", "a_b.png", "nul.png"):
        Image.fromarray(pixels).save(folder / name)
    out = tmp_path / "out"
    options = ("--patch-mpp", 0.5, "--checkpoint", checkpoint, "-c", "small", "-j", 0, "--mode", "generator")
    ended = wsi_stain("normalize", tmp_path / "patches", *options, "-o", out)
    check(ended, 0)
    assert len(list((out / "patches").rglob("*.png"))) == 4
    check_files(out)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        pytest.param(("inspect", f"/nowhere/{HOSTILE}"), 1, id="inspect"),
        pytest.param(("run", "/nowhere", "-o", "/tmp/o", "-c", HOSTILE, "--reference", "x"), 1, id="run"),
        pytest.param(("train", f"/nowhere/{HOSTILE}", "-o", "/tmp/o"), 1, id="train"),
        pytest.param(("normalize", f"/nowhere/{HOSTILE}", "-o", "/tmp/o"), 1, id="normalize"),
        pytest.param(("export", f"/nowhere/{HOSTILE}", "/tmp/x.onnx"), 1, id="export"),
        pytest.param(("verify", f"/nowhere/{HOSTILE}"), 1, id="verify"),
        pytest.param(("report", f"/nowhere/{HOSTILE}"), 1, id="report"),
        pytest.param(("view", f"/nowhere/{HOSTILE}"), 1, id="view"),
        pytest.param(("import", "images", f"/nowhere/{HOSTILE}", "-s", "/tmp/s", "--mpp", 1), 2, id="import"),
        pytest.param(("evaluate", "pairs", f"/nowhere/{HOSTILE}", "/nowhere", "-o", "/tmp/o"), 2, id="evaluate"),
        pytest.param(("inspect", ".", f"--{HOSTILE}"), 2, id="an option"),
        pytest.param((HOSTILE,), 2, id="a command"),
    ],
)
def test_what_is_typed_wrong_is_shown_escaped(command: tuple[object, ...], code: int, wsi_stain: Run) -> None:
    check(wsi_stain(*command), code)


def test_a_closed_folder_is_a_warning_and_the_rest_is_inspected(wsi_stain: Run) -> None:
    with folder_for_nobody() as folder:
        pyramid(folder / "open.svs", paint_tissue(Size(700, 900), 1))
        (folder / f"{HOSTILE}closed").mkdir(mode=0)
        with without_rights():
            ended = wsi_stain("inspect", folder, "-j", 0)
    check(ended, 0)
    assert "cannot be searched for slides: Permission denied" in ended.out and "open.svs" in ended.out
