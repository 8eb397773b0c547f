"""Results of each slide: its row, what is kept of a finished slide, `summary.csv`."""

from wsi_stain.results.slide_row import SlideRow, Status
from wsi_stain.results.summary_csv import read_rows, read_summary, summary_row, write_summary

__all__ = ["SlideRow", "Status", "read_rows", "read_summary", "summary_row", "write_summary"]
