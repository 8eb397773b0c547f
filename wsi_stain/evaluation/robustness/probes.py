"""Linear probes on an encoder's features: do they tell the centre, the biology, and does that hold in another centre?

A probe is a ridge classifier on standardized features, each class of the same weight, its penalty a tenth of the number
of patches: nothing is tuned. It never sees the slide, or patient, that it is asked about.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsi_stain.evaluation.intervals import Shares, count_shares
from wsi_stain.evaluation.robustness.patches import Codes, CohortPatches, Features

_FOLDS = 5
_PENALTY = 0.1


def tell_centre(features: Features, patches: CohortPatches) -> Shares | None:
    """Count how often a probe tells the centre, a share a centre; None where a centre has a single group."""
    everything = np.arange(len(patches.centre))
    predicted = _predict_folds(features, patches.centre, patches.group, everything)
    return None if predicted is None else _count(patches, predicted, patches.centre, patches.centre)


def tell_biology(features: Features, patches: CohortPatches) -> tuple[Shares | None, bool]:
    """Count how often a probe tells the biology.

    Within each centre that has two labels of two groups each, by a probe of that centre alone: what the centre's
    stain tells of the biology does not count then. Where no centre has, over all centres together.

    Returns:
        The counts, a share for each label of each centre, None where no label can be told from another; and whether
        they are within centres.
    """
    labelled = np.flatnonzero(patches.label >= 0)
    predicted = np.full(len(patches.label), -1, np.intp)
    for centre in range(len(patches.centres)):
        rows = labelled[patches.centre[labelled] == centre]
        told = _predict_folds(features, patches.label, patches.group, rows)
        if told is not None:
            predicted[rows] = told[rows]
    if (predicted >= 0).any():
        return _count(patches, predicted, patches.label, _cells(patches)), True
    overall = _predict_folds(features, patches.label, patches.group, labelled)
    return (None if overall is None else _count(patches, overall, patches.label, patches.label)), False


def transfer_biology(features: Features, patches: CohortPatches) -> Shares | None:
    """Count how often a probe of all other centres tells the biology in a centre, a share for each label of each.

    Only labels that the others have count; groups that lie in several centres are not learnt from. None where the
    others have one label.
    """
    predicted = np.full(len(patches.label), -1, np.intp)
    labelled = patches.label >= 0
    for centre in range(len(patches.centres)):
        own = labelled & (patches.centre == centre)
        others = labelled & (patches.centre != centre) & ~np.isin(patches.group, patches.group[own])
        known = np.unique(patches.label[others])
        asked = own & np.isin(patches.label, known)
        if len(known) > 1 and asked.any():
            predicted[asked] = _predict(features, patches.label, np.flatnonzero(others), np.flatnonzero(asked))
    if not (predicted >= 0).any():
        return None
    return _count(patches, predicted, patches.label, _cells(patches))


def _cells(patches: CohortPatches) -> Codes:
    return patches.centre * max(1, len(patches.labels)) + patches.label


def _count(patches: CohortPatches, predicted: Codes, truth: Codes, cells: Codes) -> Shares:
    asked = np.where(predicted >= 0, cells, -1)
    return count_shares(patches.group, patches.group_count, asked, predicted == truth)


def _predict_folds(features: Features, classes: Codes, groups: Codes, rows: Codes) -> Codes | None:
    """Predict the class of some rows, each by a probe of the other folds: (n,), -1 elsewhere.

    None where there are not two classes of two groups each.
    """
    of_class = [len(np.unique(groups[rows][classes[rows] == name])) for name in np.unique(classes[rows])]
    if len(of_class) < 2 or min(of_class) < 2:
        return None
    predicted = np.full(len(classes), -1, np.intp)
    for train, test in _folds(classes[rows], groups[rows], min(_FOLDS, *of_class)):
        predicted[rows[test]] = _predict(features, classes, rows[train], rows[test])
    return predicted


def _folds(classes: Codes, groups: Codes, count: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    yield from StratifiedGroupKFold(count).split(np.zeros(len(classes)), classes, groups)


def _predict(features: Features, classes: Codes, train: Codes, test: Codes) -> Codes:
    """Train a probe on some rows and ask it about others; where the former are of one class, it is that one."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(classes[train])) < 2:
        return np.full(len(test), classes[train][0])
    ridge = RidgeClassifier(alpha=_PENALTY * len(train), class_weight="balanced", solver="cholesky")
    probe = make_pipeline(StandardScaler(), ridge)
    probe.fit(features[train].astype(np.float64), classes[train])
    return np.asarray(probe.predict(features[test].astype(np.float64)), np.intp)
