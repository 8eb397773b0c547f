"""The documentation builds as a site, without a warning, and every page has its place in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.test_examples import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "not included in the" not in ended.stderr, "a page without a place in mkdocs.yml"
    return folder


def test_the_command_line_is_documented_from_the_commands(site: Path) -> None:
    page = (site / "command-line.html").read_text(encoding="utf-8")
    for words in ("wsi-stain run", "wsi-stain evaluate pairs", "--reference"):
        assert words in page
    assert "finished or not. Needs no slides.</li>" in page, "lists of commands say all of each"


def test_the_python_reference_has_the_docstrings(site: Path) -> None:
    page = (site / "python-api.html").read_text(encoding="utf-8")
    assert "wsi_stain.normalize.slide.NormalizedSlide" in page and "Slide in the reference" in page


def test_configuration_shows_the_shipped_file(site: Path) -> None:
    keys = yaml.safe_load((ROOT / "configs" / "small.yaml").read_text(encoding="utf-8"))
    page = (site / "configuration.html").read_text(encoding="utf-8")
    assert all(key in page for section in ("training", "executor") for key in keys[section])


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text and 'rel="stylesheet" href="http' not in text, page.name
