"""Whatever happens to an output directory, in any order, running the same command again makes it right."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from rich.console import Console

from pipelines import report, run, verify
from pipelines.shared.config import RunConfig
from tests.support.files_below import digests
from tests.support.identity import identity_in_every_mode
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue
from wsi_stain.core import journal
from wsi_stain.core.errors import OutputError, WsiStainError
from wsi_stain.core.geometry import Size
from wsi_stain.executor import ExecutorConfig
from wsi_stain.synthetic.slide import write_slide

QUALITIES = (80, 90)
"""Of the pyramid's JPEG tiles: the setting that is changed."""


class OutputDirectory(RuleBasedStateMachine):
    """One slide, one output directory, and what the model expects in it.

    Attributes:
        inputs: Folder of the slide and the checkpoint.
        expected: By quality, the digests of what an undisturbed run makes.
        quality: The present setting.
        is_whole: Whether the last run ended well, and nothing was done to its files since.
        has_begun: Whether any run began.
    """

    inputs: ClassVar[Path]
    expected: ClassVar[dict[int, dict[str, str]]]

    def __init__(self) -> None:
        super().__init__()
        self.out = Path(tempfile.mkdtemp(prefix="state-", dir=self.inputs)) / "out"
        self.quality, self.is_whole, self.has_begun = QUALITIES[0], False, False

    def teardown(self) -> None:
        shutil.rmtree(self.out.parent)

    @rule()
    def run(self) -> None:
        normalize(self.inputs, self.out, self.quality)
        self.is_whole = self.has_begun = True
        assert digests(self.out / "slides") == self.expected[self.quality]
        assert not list(self.out.rglob(".*.partial"))

    @rule(visit=st.integers(1, 30))
    def be_killed(self, visit: int) -> None:
        """Run in a process that dies before its N-th rename, should it come to that."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # no thread runs that the new process could miss
            child = os.fork()
        if child == 0:
            os.environ["WSI_STAIN_FAILPOINT"] = f"before-rename:{visit}"
            journal._failpoint_plan.cache_clear()
            try:
                normalize(self.inputs, self.out, self.quality)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        self.is_whole, self.has_begun = not was_killed, True
        whole = {entry for quality in QUALITIES for entry in self.expected[quality].items()}
        present = digests(self.out / "slides").items() if (self.out / "slides").exists() else set()
        assert {entry for entry in present if ".partial" not in entry[0]} <= whole, (
            "half of a file under its final name"
        )

    @rule(quality=st.sampled_from(QUALITIES))
    def change_setting(self, quality: int) -> None:
        self.is_whole &= quality == self.quality
        self.quality = quality

    @precondition(lambda self: self.has_begun)
    @rule(data=st.data())
    def delete_file(self, data: Any) -> None:
        files = sorted(path.relative_to(self.out) for path in self.out.rglob("*") if path.is_file())
        (self.out / data.draw(st.sampled_from(files))).unlink()
        self.is_whole = False

    @precondition(lambda self: self.has_begun)
    @rule()
    def report(self) -> None:
        left = (self.out / "run.json").exists() or (self.out / "summary.csv").exists()
        try:
            assert report.run(self.out, Console(file=io.StringIO())) == 0
        except OutputError:
            assert not left
        else:
            assert (self.out / "report" / "index.html").exists()

    @precondition(lambda self: self.has_begun)
    @rule()
    def verify(self) -> None:
        """Find nothing wrong where nothing was done; else faults, or no finished run, but never a traceback."""
        try:
            code = verify.run(verify.Request(self.out, [], ExecutorConfig(workers=0)), Console(file=io.StringIO()))
        except WsiStainError:
            code = 1
        pyramids = digests(self.out / "slides") if (self.out / "slides").exists() else {}
        if self.is_whole:
            assert code == 0
        elif not pyramids:
            assert code != 0, "verified what is not there"


def normalize(inputs: Path, out: Path, quality: int) -> None:
    """Run the `run` command's own code on the slide, with the identity for a generator."""
    config = RunConfig.model_validate({"executor": {"workers": 0}, "jpeg": {"quality": quality}})
    request = run.Request([inputs / "a.svs"], [], inputs / "untrained.safetensors", out, config)
    said = io.StringIO()
    with identity_in_every_mode():
        assert run.run(request, Console(file=said)) == 0, said.getvalue()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> type[OutputDirectory]:
    folder = tmp_path_factory.mktemp("machine")
    write_slide(folder / "a.svs", paint_tissue(Size(701, 530)), 0.5, style="svs")
    write_untrained(folder / "untrained.safetensors", 0.5)
    OutputDirectory.inputs, OutputDirectory.expected = folder, {}
    for quality in QUALITIES:
        normalize(folder, folder / f"quality-{quality}", quality)
        OutputDirectory.expected[quality] = digests(folder / f"quality-{quality}" / "slides")
    return OutputDirectory


def explore(machine: type[OutputDirectory], examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)


def test_a_rerun_makes_right_whatever_happened(machine: type[OutputDirectory]) -> None:
    explore(machine, examples=3, steps=6)


@pytest.mark.slow
def test_a_rerun_makes_right_whatever_happened_many_times(machine: type[OutputDirectory]) -> None:
    explore(machine, examples=60, steps=15)
