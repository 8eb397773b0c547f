"""Groups without a list: one scanner, one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_stain.cohort.scanner_groups import describe_scanner_groups, find_scanner_groups
from wsi_stain.slides.listing.find import SlideSource


def source(name: str, group: str | None = None) -> SlideSource:
    return SlideSource(path=Path("/s") / name, slide_id=name.replace("/", "__"), relative=name, group=group)


SLIDES = [source("a/1.svs"), source("a/2.svs"), source("a/3.svs"), source("b/1.svs"), source("4.svs")]


def scanners(*names: str) -> dict[str, str]:
    return {slide.slide_id: name for slide, name in zip(SLIDES, names, strict=True)}


def test_slides_of_one_scanner_and_one_folder_are_a_group() -> None:
    groups = find_scanner_groups(SLIDES, scanners("X", "X", "Y", "X", "X"))
    assert groups == {"a__1.svs": "X, in a", "a__2.svs": "X, in a"}
    assert describe_scanner_groups(groups) == "2 slides of X, in a"


@pytest.mark.parametrize("names", [("X", "Y", "", "", "X"), ("", "", "", "", "")], ids=["each its own", "unknown"])
def test_what_the_files_do_not_say_makes_no_group(names: tuple[str, ...]) -> None:
    assert find_scanner_groups(SLIDES, scanners(*names)) == {}
    assert describe_scanner_groups({}) == ""


def test_a_slide_lists_group_comes_first() -> None:
    listed = [source("a/1.svs", group="mine"), *SLIDES[1:]]
    assert find_scanner_groups(listed, scanners("X", "X", "X", "Y", "Y")).keys() == {"a__2.svs", "a__3.svs"}
