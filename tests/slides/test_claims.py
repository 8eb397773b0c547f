"""The scanner's name, of what files of several makers say."""

from __future__ import annotations

import pytest

from wsi_stain.slides.claims import name_scanner


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"openslide.vendor": "aperio", "aperio.ScanScope ID": "SS1302"}, "aperio no. SS1302"),
        ({"openslide.vendor": "hamamatsu", "hamamatsu.Product": "C9600-12"}, "hamamatsu C9600-12"),
        ({"openslide.vendor": "leica", "leica.device-model": "Leica SCN400"}, "Leica SCN400"),
        ({"openslide.vendor": "generic-tiff", "tiff.Model": "GT450"}, "GT450"),
        ({"openslide.vendor": "aperio", "aperio.ScanScope ID": " a \n b "}, "aperio no. a b"),
        ({"openslide.vendor": "aperio", "aperio.ScanScope ID": "  "}, ""),
        ({"openslide.vendor": "generic-tiff"}, ""),
    ],
)
def test_the_name_is_what_the_file_says(properties: dict[str, str], name: str) -> None:
    assert name_scanner(properties, None) == name


def test_profiles_tell_scanners_of_one_number_apart() -> None:
    named = [name_scanner({"aperio.ScanScope ID": "S"}, profile) for profile in (b"1", b"2", None)]
    assert len(set(named)) == 3
    assert named[0].startswith("no. S, ICC ")
