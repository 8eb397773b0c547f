"""One command for each habit: `nox -s format lint types test bench docs wheel`. Each runs in nox's own environment."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import venv
from pathlib import Path

import nox

ROOT = Path(__file__).parent

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it need not be activated
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "test"]


@nox.session
def format(session: nox.Session) -> None:
    """Format the code, and mend what ruff can mend."""
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, the Dockerfile, and pre-commit's configuration; nothing is changed."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("typos")
    session.run("hadolint", "Dockerfile")
    session.run("pre-commit", "validate-config")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.run("mypy")


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests side by side; arguments go to pytest."""
    session.run("python", "-m", "pytest", *(session.posargs or ["-n", "auto"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Run a program of benchmarks/ with its arguments; without a name, list them."""
    if not session.posargs:
        session.log("give one of: " + ", ".join(sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))))
        return
    name, *arguments = session.posargs
    session.run("python", f"benchmarks/{name}.py", *arguments)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as a site, in build/site; a warning is an error."""
    session.run("mkdocs", "build", "--strict")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel into dist/, and install the wheel in an environment of its own."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("pyproject-build", "--outdir", "dist")
    (built,) = (ROOT / "dist").glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        session.run(f"{folder}/bin/python", "-m", "pip", "install", "--quiet", str(built), external=True)
        session.run(f"{folder}/bin/wsi-stain", "--version", external=True)
        session.run(f"{folder}/bin/wsi-stain", "doctor", external=True)
