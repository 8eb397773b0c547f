"""The package as it is delivered: wheel and sdist, citation, the commands of its habits, shell completion."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import wsi_stain

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_says_what_the_project_says() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == wsi_stain.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] and citation["message"] and citation["title"].startswith(PROJECT["name"])


def test_the_commands_of_habits_are_sessions() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") + (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    called = {word for line in re.findall(r"nox -s ([a-z ]+)", guide) for word in line.split()}
    assert called - {"on", "and", "builds", "pass"} <= sessions
    assert sessions == {"format", "lint", "types", "test", "bench", "docs", "wheel"}


def test_shells_complete_commands() -> None:
    asked = {"_WSI_STAIN_COMPLETE": "complete_bash", "COMP_WORDS": "wsi-stain ver", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from pipelines.cli.app import app; app(prog_name='wsi-stain')"]
    ended = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.stdout.split() == ["verify"], ended.stderr


@pytest.mark.slow
def test_the_wheel_made_from_the_sdist_works_where_no_source_is(tmp_path: Path) -> None:
    """Its own environment has the wheel, and borrows the dependencies; `nox -s wheel` fetches those as well."""
    pytest.importorskip("build")
    dist = tmp_path / "dist"
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT)], check=True)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"pipelines/configs/small.yaml", "wsi_stain/core/errors.py", "pipelines/cli/app.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]
    assert sdist.stat().st_size < 20e6
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    borrowed = [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    for arguments, said in ((["--version"], f"wsi-stain {wsi_stain.__version__}"), (["run", "--help"], "--reference")):
        program = [str(tmp_path / "env" / "bin" / "wsi-stain"), *arguments]
        ended = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert ended.returncode == 0 and said in ended.stdout, ended.stderr
    where = "import pipelines.cli.app as app, wsi_stain; print(app.__file__, wsi_stain.__file__)"
    ended = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert all(path.startswith(str(packages)) for path in ended.stdout.split())
