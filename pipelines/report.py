"""The `report` command: the page of a run, made from what the run left on disk. Needs no slide and no checkpoint.

After a crash too, as far as rows can be recovered.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console

from pipelines.run_directory.page import read_run_state, write_state_page
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.messages import print_line
from wsi_stain.core.errors import OutputError


def run(out: Path, console: Console) -> int:
    """Write the report of a run, finished or not.

    Returns:
        0.

    Raises:
        OutputError: No run has left anything in `out`.
    """
    workspace = Workspace(out)
    if not (workspace.record.exists() or workspace.summary.exists() or workspace.training.exists()):
        raise OutputError(f"{out} is not the output directory of a run", "Name the directory given to run --out")
    state = read_run_state(workspace)
    page = write_state_page(workspace, state)
    for status, count in Counter(row.status for row in state.rows).items():
        print_line(console, f"{count} {status}")
    for note in state.notes:
        print_line(console, note)
    print_line(console, f"report: {page}")
    return 0
