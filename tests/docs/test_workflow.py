"""docs/examples/Snakefile runs with the real Snakemake, in its own environment, and gives the same bytes twice."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.docs.test_examples import ROOT
from tests.support.demo_config import write_demo_config
from tests.support.files_below import digests
from wsi_stain.synthetic import write_cohort


@pytest.fixture(scope="module")
def snakemake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in an environment of its own, since its dependencies are many."""
    home = tmp_path_factory.mktemp("snakemake")
    venv.create(home, with_pip=True)
    subprocess.run([home / "bin" / "pip", "install", "-q", "snakemake"], check=True)
    return home / "bin" / "snakemake"


def run_workflow(snakemake: Path, folder: Path) -> dict[str, str]:
    """Make slides and a reference in `folder`, run the workflow there, and return the digests of its pyramids."""
    cohort = write_cohort(folder, width=1500)
    write_demo_config(folder / "fast.yaml")
    command = [
        snakemake, "--snakefile", ROOT / "docs" / "examples" / "Snakefile", "--cores", "1",
        "--config", f"slides={cohort.slides}", f"reference={cohort.reference}", "training=fast.yaml",
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return {name: digest for name, digest in digests(folder / "normalized").items() if name.endswith(".ome.tif")}


@pytest.mark.slow
def test_the_workflow_gives_the_same_bytes_twice(snakemake: Path, tmp_path: Path) -> None:
    first, second = (run_workflow(snakemake, tmp_path / name) for name in ("first", "second"))
    assert sorted(first) == ["marked/slides/marked.ome.tif"]
    assert first == second
