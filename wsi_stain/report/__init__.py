"""`report/index.html`, the page of a run, made from the rows of its slides.

pictures     everything that a row shows of the slide, made when its pyramid stands; from
             fields (places at several magnifications) and colours (OD, stain after)
sheet        one picture of several slides
page         the page; from outliers (what to see first), cohort (its colours),
             choice (its own reference), training, charts
"""

from wsi_stain.report.colours import reference_histogram
from wsi_stain.report.page import RunRecord, write_report
from wsi_stain.report.pictures import PictureTask, load_pictures, make_pictures
from wsi_stain.report.sheet import write_sheet
from wsi_stain.report.training import read_training
from wsi_stain.results.slide_row import SlideRow, Status
from wsi_stain.results.summary_csv import read_rows, read_summary, summary_row, write_summary

__all__ = [
    "PictureTask",
    "RunRecord",
    "SlideRow",
    "Status",
    "load_pictures",
    "make_pictures",
    "read_rows",
    "read_summary",
    "read_training",
    "reference_histogram",
    "summary_row",
    "write_report",
    "write_sheet",
    "write_summary",
]
