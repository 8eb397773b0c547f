"""Centres whose biology and stain are known: slides that are `crowded` with small nuclei, or `sparse`; an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.ndimage import gaussian_filter

from tests.support.made_store import store_slide
from wsi_stain.core.geometry import TILE
from wsi_stain.synthetic import LABORATORIES, Laboratory, stain_tissue

REFERENCE, OTHER = LABORATORIES["reference"], LABORATORIES["other"]
DARK, PALE = (REFERENCE.model_copy(update={"hematoxylin_gain": gain}) for gain in (1.4, 1.15))
NUCLEI_PX = {"crowded": 2.0, "sparse": 5.0, "dark": 3.0, "pale": 3.0}
"""How large nuclei are, by label; they cover as much either way. What is `dark` or `pale` its laboratory decides."""


def draw_amounts(nucleus_px: float, seed: int) -> NDArray[np.float32]:
    """Draw hematoxylin and eosin, (256, 256, 2): a third of the tissue nuclei of about this size, and some glass."""
    rng = np.random.default_rng(seed)
    nuclei, glass = (gaussian_filter(rng.standard_normal((TILE, TILE)), s) * s for s in (nucleus_px, 12))
    tissue = glass < 0.35
    return np.stack([np.where(nuclei > 0.12, 0.9, 0.1) * tissue, 0.6 * tissue], axis=-1).astype(np.float32)


def add_centre(store: Path, site: str, laboratory: Laboratory, labels: Sequence[str], seed: int) -> None:
    """Add a slide of one tile for each label to a store, stained by a laboratory, its nuclei as the label says."""
    for number, label in enumerate(labels):
        size = NUCLEI_PX[label] * np.random.default_rng(seed + number).uniform(0.75, 1.25)
        pixels = stain_tissue(draw_amounts(size, seed + number), laboratory, seed + number)
        store_slide(store, f"{site}-{number}", pixels, mpp=0.5, label=label, site=site)


def write_encoder(path: Path) -> Path:
    """Write an ONNX encoder: mean colours, and the logarithms of how much detail there is, fine and coarse, (n, 9)."""
    laplacian = np.zeros((3, 1, 3, 3), np.float32)
    laplacian[:, 0] = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    detail = {"fine": "x", "coarse": "small"}
    nodes = [
        helper.make_node("AveragePool", ["x"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["x"], ["colour"]),
    ]
    for name, source in detail.items():
        nodes += [
            helper.make_node("Conv", [source, "laplacian"], [f"{name}_edges"], group=3),
            helper.make_node("Abs", [f"{name}_edges"], [f"{name}_size"]),
            helper.make_node("GlobalAveragePool", [f"{name}_size"], [f"{name}_mean"]),
            helper.make_node("Log", [f"{name}_mean"], [name]),
        ]
    nodes.append(helper.make_node("Concat", ["colour", *detail], ["features"], axis=1))
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 9, 1, 1])
    weights = [numpy_helper.from_array(laplacian, "laplacian")]
    graph = helper.make_graph(nodes, "encoder", [picture], [features], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
