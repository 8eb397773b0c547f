"""The command lines of docs/cluster.md are ones that Dask takes; `test_command_lines` has those of wsi-stain."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from pipelines.shared.config import RunConfig

TEXT = (Path(__file__).parent.parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
COMMANDS = {
    ("dask", "scheduler"): dask_scheduler,
    ("dask", "worker"): dask_worker,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def lines() -> list[str]:
    """The command lines, and those within those for sbatch."""
    found = [line for block in blocks("shell") for line in block.splitlines()]
    within = [match for line in found for match in re.findall(r'--wrap "(.*)"', line)]
    return [line for line in (*found, *within) if line.startswith(("dask scheduler", "dask worker"))]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificates that the lines speak of: Dask wants them to be there."""
    monkeypatch.chdir(tmp_path)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("line", lines())
def test_every_command_line_is_understood(line: str) -> None:
    words = [
        word for word in shlex.split(line) if "=" not in word or word.startswith("-") or word[:3] in ("CPU", "GPU")
    ]
    command = COMMANDS[words[0], words[1]]
    command.make_context(command.name, words[2:])


def test_there_are_lines_to_look_at() -> None:
    assert len(lines()) >= 6


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_configuration_loads(text: str) -> None:
    RunConfig.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("code", blocks("py"))
def test_the_scripts_are_python(code: str) -> None:
    """They need a cluster to run."""
    ast.parse(code)
