"""What people look at after a run: `summary.csv` and `report/index.html`. Knows no stages; it is told rows."""

from wsi_stain.report.page import write_report
from wsi_stain.report.rows import SlideRow, Status
from wsi_stain.report.summary import read_summary, summary_row, write_summary
from wsi_stain.report.thumbnails import after_thumbnail, write_sheet

__all__ = [
    "SlideRow",
    "Status",
    "after_thumbnail",
    "read_summary",
    "summary_row",
    "write_report",
    "write_sheet",
    "write_summary",
]
