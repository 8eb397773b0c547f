"""Which workers the tasks of a slide are for: a GPU's only where the generator is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate.tasks import scoring_pool
from pipelines.normalization.tasks import block_pool
from tests.support.made_checkpoint import STATISTICS, WHITE, write_untrained
from wsi_stain.evaluation.methods import Method
from wsi_stain.executor import Pool
from wsi_stain.normalizers.config import ClassicalMethod, Mode, NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.stain.colour_bins import ColourPairs
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.table_fit import fit_table
from wsi_stain.store.artifact import TABLE

MODES: list[tuple[Mode, Pool]] = [("generator", "gpu"), ("guard", "gpu"), ("lut", "cpu")]


@pytest.mark.parametrize(("mode", "pool"), MODES)
def test_blocks_go_where_the_generator_is_only_if_they_need_it(mode: Mode, pool: Pool) -> None:
    assert block_pool(NormalizeConfig(mode=mode)) == pool


@pytest.mark.parametrize("method", ["reinhard", "macenko", "vahadane"])
def test_classical_methods_need_no_gpu(method: ClassicalMethod) -> None:
    assert block_pool(NormalizeConfig(method=method, mode="generator")) == "cpu"
    classical = Method(method, NormalizeConfig(method=method), Path("reference.json"))
    assert scoring_pool([classical]) == scoring_pool([]) == "cpu"
    assert scoring_pool([classical, Method("lut", NormalizeConfig(mode="lut"), Path("c.safetensors"))]) == "gpu"


def test_a_table_made_on_a_gpu_is_applied_by_a_process_that_has_none(tmp_path: Path) -> None:
    """Nor does knowing a generator's halo open a context on one."""
    checkpoint = write_untrained(tmp_path / "c.safetensors")
    config = NormalizeConfig(mode="lut", precision="float32")
    table = fit_table(ColourPairs(), STATISTICS.white, WHITE)
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    normalizer = load_normalizer(config, checkpoint, "cuda")
    made = normalizer.apply(pixels, np.ones((1, 1), bool), {TABLE: table})
    np.testing.assert_array_equal(made, apply_table(table, pixels))
    generator = load_normalizer(config.model_copy(update={"mode": "generator"}), checkpoint, "cuda")
    assert generator.halo >= 64
