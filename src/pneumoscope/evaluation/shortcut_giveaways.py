"""How well the class can be told without any network: from the file, the exposure, the outline of the lungs.

In: samples, their pixel cache and their lungs. Out: by kind of property, AUC and accuracy of a classifier
that sees nothing else, cross-validated by patient. It is a fact of the data set and no fault of the network,
but a network that has learnt these instead of pneumonia would be as good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pneumoscope.core.records import Label, Sample
from pneumoscope.data.audit_properties import Property, measure_properties
from pneumoscope.data.audit_shortcuts import Question, ask, predict_jointly, score_property
from pneumoscope.data.cache import PixelCache
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation import weighted_metrics as weighted
from pneumoscope.evaluation.intervals import bootstrap, bootstrap_estimate, proportion_estimate
from pneumoscope.evaluation.shortcut_lungs import LungMasks, shape_properties

_KINDS = {
    "file": ("The file alone", "size, width, height, aspect, age, sex, view, site"),
    "picture": ("The exposure alone", "brightness, contrast, black and white pixels, corners, sharpness"),
    "lungs": ("The outline of the lungs alone", "area and edges of either lung, without any grey level"),
}
_METHOD = "gradient boosting, cross-validated by patient in 5 folds"
_BOTH = ("file", "picture")


def measure_giveaways(
    samples: Sequence[Sample], cache: PixelCache, masks: LungMasks, *, resamples: int, seed: int
) -> dict[str, Any]:
    """What each kind of property gives away.

    Args:
        samples: the films that the network is asked about.
        cache: holds all of them.
        masks: their lungs.
        resamples, seed: of the bootstrap; the seed is also that of the folds.

    Returns:
        ``method``, ``majority`` (accuracy of always saying the commoner class) and ``kinds``: by kind
        ``title``, ``what``, ``properties``, ``roc_auc`` and ``accuracy`` (estimates) and ``best`` (name and
        AUC of the single property that tells most). A kind that does not vary is absent; there are none
        where a class has fewer than two patients.
    """
    positive = np.array([sample.label is not Label.NORMAL for sample in samples])
    groups = np.unique([sample.group_id for sample in samples], return_inverse=True)[1].astype(np.int64)
    question = ask(positive, np.ones(len(samples), dtype=bool), groups, seed)
    share = float(positive.mean())
    found: dict[str, Any] = {"method": _METHOD, "majority": max(share, 1 - share), "kinds": {}}
    if question is None:
        return found
    every = (*measure_properties(samples, cache), *shape_properties(samples, masks))
    told = [item for item in every if np.nanmin(item.values) != np.nanmax(item.values)]
    of_kind = {kind: [item for item in told if item.kind == kind] for kind in _KINDS}
    joint = {kind: (*text, of_kind[kind]) for kind, text in _KINDS.items()}
    together = [item for kind in _BOTH for item in of_kind[kind]]
    joint["metadata"] = ("File and exposure together", "the metadata-only classifier", together)
    patients = [sample.patient_id for sample in samples]
    for kind, (title, what, own) in joint.items():
        if own:
            found["kinds"][kind] = {"title": title, "what": what} | _answer(
                own, question, patients, resamples
            )
    return found


def _answer(
    own: Sequence[Property], question: Question, patients: Sequence[str], resamples: int
) -> dict[str, Any]:
    """AUC and accuracy of the properties together, and the AUC of the best one of them."""
    scores = predict_jointly(np.stack([item.values for item in own], axis=1), question)
    target = question.target
    draws = bootstrap(
        {"auc": weighted.roc_auc_statistic(target, scores)},
        patients,
        resamples=resamples,
        rng=np.random.default_rng(question.seed),
    )
    names = np.array(patients)
    smaller = min(len(np.unique(names[rows])) for rows in (target, ~target))
    area = metrics.roc_auc(target, scores)
    right = proportion_estimate(int(((scores >= 0.5) == target).sum()), len(scores))
    assert area is not None  # a question has both classes
    assert right is not None
    estimate = bootstrap_estimate(area, draws["auc"], n=len(scores), smaller_class=smaller)
    single = {item.name: score_property(item.values, question).value for item in own}
    best = max(single, key=single.__getitem__)
    return {
        "properties": [item.name for item in own],
        "roc_auc": None if estimate is None else asdict(estimate),
        "accuracy": asdict(right),
        "best": {"name": best, "roc_auc": float(single[best])},
    }
