"""Every command line of the README and of docs/ is one that wsi-stain takes; the guides also run, as `slow`."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.cli.app import app
from tests.docs.test_examples import ROOT
from tests.support.demo_config import write_demo_config
from wsi_stain.synthetic import write_cohort

_BLOCK = re.compile(r"^```(?:sh|shell)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
GUIDES = ("quickstart.md", "choose-reference.md", "cohort.md", "running.md", "tune-cpu.md")


def shell_blocks(document: Path) -> list[str]:
    return _BLOCK.findall(document.read_text(encoding="utf-8"))


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield (document, arguments) of each call of wsi-stain, comments and continuations resolved."""
    for document in DOCUMENTS:
        for block in shell_blocks(document):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and Path(words[0]).name == "wsi-stain":
                    yield document.name, shlex.join(words[1:])


def resolve_command(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words name, and its own arguments."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize(("document", "line"), sorted(set(command_lines())))
def test_every_line_is_understood(document: str, line: str) -> None:
    command, words = resolve_command(shlex.split(line))
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"no command {words[:1]}"
    try:
        command.make_context(command.name, words)
    except SystemExit as ended:  # --help and --version
        assert ended.code == 0
    except typer.BadParameter as error:
        assert "does not exist" in error.message  # a file of the reader's own


def test_a_wrong_line_is_not_understood() -> None:
    command, words = resolve_command(["run", "slides", "--reverence", "r.svs", "--out", "o"])
    with pytest.raises(Exception, match="reverence"):
        command.make_context(command.name, words)


def test_guides_have_lines() -> None:
    assert {document for document, _line in command_lines()} >= {"README.md", "cluster.md", *GUIDES}


@pytest.fixture
def laboratory(tmp_path: Path) -> dict[str, str]:
    """A directory with the slides that the guides speak of, and an environment whose wsi-stain trains for a moment."""
    cohort = write_cohort(tmp_path, width=1500)
    for name in ("reference.svs", "reference2.svs"):
        (tmp_path / name).symlink_to(cohort.reference / "ref_01.svs")
    (tmp_path / "more-slides").symlink_to(cohort.slides)
    (tmp_path / "slides.csv").write_text("slide,group\nslides/plain.tif,one\nslides/marked.svs,one\n", encoding="utf-8")
    write_demo_config(tmp_path / "fast.yaml")
    program = tmp_path / "bin" / "wsi-stain"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from pipelines.cli.app import main\n"
        "if __name__ == '__main__':  # not in its worker processes\n"
        "    trains = sys.argv[1] == 'train' or (sys.argv[1] == 'run' and '--reference' in sys.argv)\n"
        "    sys.argv += ['--config', 'fast.yaml'] if trains and '--method' not in sys.argv else []\n"
        "    main()\n",
        encoding="utf-8",
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    own = {"PYTHONPATH": str(ROOT), "WSI_STAIN_REFERENCES": str(tmp_path / "references")}
    return {**os.environ, **own, "PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_the_guides_run(guide: str, laboratory: dict[str, str], tmp_path: Path) -> None:
    needs_checkpoint = "out/training/checkpoint.safetensors"
    blocks = shell_blocks(ROOT / "docs" / guide)
    if needs_checkpoint in blocks[0] or guide == "tune-cpu.md":
        blocks.insert(0, "wsi-stain run slides --reference reference.svs --out out")
    for block in blocks:
        if "demo" in block or " view " in block:
            continue  # they have tests of their own
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path, env=laboratory, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{block}\n{ended.stdout}\n{ended.stderr}"
