"""A small study: slides of two laboratories, with ink and blur here and there, and what they would be in one stain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import atomic_write
from wsi_stain.synthetic.laboratory import LABORATORIES, Pen, defocus, draw_pen, stain_tissue
from wsi_stain.synthetic.slide import SlideFormat, write_slide
from wsi_stain.synthetic.tissue import render_tissue

_MPP = 0.25


@dataclass(frozen=True)
class Cohort:
    """Folders and files of a synthetic study.

    Attributes:
        reference: Folder with the reference laboratory's slide.
        slides: Folder with the other laboratory's slides, nested.
        truth: By the slide's path relative to `slides`, its tissue stained by the reference; empty unless asked for.
    """

    reference: Path
    slides: Path
    truth: dict[str, Path]


@dataclass(frozen=True)
class _Plan:
    """One slide of the cohort: its tissue, how it is written, and what went wrong with it."""

    name: str
    size: Size
    seed: int
    style: SlideFormat
    pen: Pen | None = None
    blur_px: float | None = None


def write_cohort(directory: Path, *, width: int = 3000, truth: bool = False, broken: bool = False) -> Cohort:
    """Write a small study: a reference slide, and three slides of another laboratory. What exists is left as it is.

    One of the three is plain, one is marked with a pen, one is in a folder of its own and partly out of focus.

    Args:
        directory: Gets `reference/`, `slides/` and, if asked for, `truth/`.
        width: Of the slides, px, at 40x (0.25 um per px); 3000 gives slides of about 3000 x 2500.
        truth: Also write what each slide would be in the reference's stain: without ink, but as blurred.
        broken: Also write a truncated slide.

    Raises:
        OutputError: A file cannot be written.
    """
    height = width * 5 // 6
    plans = [
        _Plan("plain.tif", Size(width + 1, height + 3), 11, "tiff"),
        _Plan("marked.svs", Size(width - 17, height), 12, "svs", pen="blue"),
        _Plan("nested/odd.tif", Size(width * 4 // 5 + 37, height * 11 // 10 + 11), 13, "tiff", blur_px=4),
    ]
    cohort = Cohort(directory / "reference", directory / "slides", {})
    _write_stained(_Plan("", Size(width, height), 10, "svs"), {"reference": cohort.reference / "ref_01.svs"})
    for plan in plans:
        wanted = {"other": cohort.slides / plan.name}
        if truth:
            wanted["reference"] = cohort.truth[plan.name] = directory / "truth" / plan.name
        _write_stained(plan, wanted)
    if broken:
        _write_broken(cohort.slides / "broken.svs", cohort.slides / "marked.svs")
    return cohort


def _write_stained(plan: _Plan, wanted: dict[str, Path]) -> None:
    """Write one tissue as stained by each laboratory in `wanted`, unless the file is there."""
    missing = {name: path for name, path in wanted.items() if not path.exists()}
    if not missing:
        return
    tissue = render_tissue(plan.size, _MPP, plan.seed)
    for name, path in missing.items():
        pixels = stain_tissue(tissue, LABORATORIES[name], plan.seed)
        if plan.blur_px:
            pixels = defocus(pixels, plan.seed, plan.blur_px)
        if plan.pen and name != "reference":
            pixels = draw_pen(pixels, plan.pen, plan.seed, width_px=plan.size.width / 16)
        write_slide(path, pixels, _MPP, style=plan.style)


def _write_broken(path: Path, whole: Path) -> None:
    if not path.exists():
        content = whole.read_bytes()
        atomic_write(path, content[: len(content) // 3])
