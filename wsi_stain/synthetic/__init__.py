"""Slides whose truth is known: synthetic tissue, stained and scanned by several laboratories, written as slide files.

tissue        concentrations of hematoxylin and eosin, drawn on a canvas
laboratory    how tissue is stained and scanned; ink and blur
scanner       how another scanner would show real pixels
slide         slide files
cohort        a small study of all this

Shares no code with the stain statistics, the training's perturbations or the baselines on purpose: what is measured on
these slides must not have been made by the arithmetic that is measured.
"""

from wsi_stain.synthetic.cohort import Cohort, write_cohort
from wsi_stain.synthetic.laboratory import LABORATORIES, Laboratory, defocus, draw_pen, stain_tissue
from wsi_stain.synthetic.scanner import SCANNERS, Scanner, rescan
from wsi_stain.synthetic.slide import write_slide
from wsi_stain.synthetic.tissue import render_tissue

__all__ = [
    "LABORATORIES",
    "SCANNERS",
    "Cohort",
    "Laboratory",
    "Scanner",
    "defocus",
    "draw_pen",
    "render_tissue",
    "rescan",
    "stain_tissue",
    "write_cohort",
    "write_slide",
]
