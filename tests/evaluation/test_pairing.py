"""Which slide is compared with which: by name, and what has no partner is said."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.evaluate.pairing import Pair, Pairing, Pool
from pipelines.shared.config import RunConfig
from pipelines.shared.progress import Progress
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import Size
from wsi_stain.executor.serial import SerialExecutor

Find = Callable[..., tuple[dict[str, Pair], str]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Find the pairs of two stores, whose slides are given by name; what was printed comes along."""

    def find_pairs(sources: str, truths: str, pool: Pool = "group", **facts: str) -> tuple[dict[str, Pair], str]:
        for folder, names in (("a", sources), ("b", truths)):
            for seed, name in enumerate(names.split()):
                store_slide(tmp_path / folder, name, paint_tissue(Size(300, 260), seed), **facts)
        printed = io.StringIO()
        with Progress(Console(file=printed, width=200)) as progress:
            pairing = Pairing(tmp_path / "work", RunConfig(), None, pool, SerialExecutor(), progress)
            return pairing.find(tmp_path / "a", tmp_path / "b", None), printed.getvalue()

    return find_pairs


def test_slides_are_paired_by_name_and_others_are_named(find: Find, tmp_path: Path) -> None:
    pairs, printed = find("one two", "two three")
    assert list(pairs) == ["two"]
    assert pairs["two"] == Pair(tmp_path / "a" / "two", tmp_path / "b" / "two", None)
    assert "one: left out: only" in printed and "three: left out: only" in printed


def test_a_single_slide_on_each_side_may_have_another_name(find: Find, tmp_path: Path) -> None:
    pairs, printed = find("one", "two")
    assert pairs["one"].truth == tmp_path / "b" / "two" and "left out" not in printed


def test_no_pair_is_an_error(find: Find) -> None:
    with pytest.raises(ConfigError, match="has its pair"):
        find("one two", "three four")


@pytest.mark.parametrize(("pool", "pooled"), [("group", False), ("all", True), ("folder", True)])
def test_sources_share_their_stain_as_asked(find: Find, pool: Pool, pooled: bool) -> None:
    pairs, printed = find("one two", "one two", pool)
    assert all((pair.stain is not None) == pooled for pair in pairs.values())
    assert ("2 sources of the group" in printed) == pooled


def test_sources_of_one_group_share_their_stain(find: Find) -> None:
    pairs, printed = find("one two", "one two", group="north")
    assert pairs["one"].stain is not None and pairs["one"].stain == pairs["two"].stain
    assert "stain is measured for 2 sources of the group north together" in printed
