"""A bundle of a site's own: what an adaptation chose, with a gate, ages and words of that site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.records import Label, Task, Verdict
from pneumoscope.evaluation.adaptation import Adaptation, SiteImages, adapt, bundle_prior, learning_curve
from pneumoscope.evaluation.commissioning import Adapted, CommissionConfig, LocalFilms, plain
from pneumoscope.evaluation.intervals import proportion_estimate
from pneumoscope.evaluation.scoring import film_key, leakage_error, patient_key
from pneumoscope.evaluation.site_gate import GateImages, fit_site_gate, site_ages, site_verdicts, usable
from pneumoscope.inference.appearance import join
from pneumoscope.inference.pipeline import Observation, observe_many
from pneumoscope.inference.prediction import calibrated_probabilities
from pneumoscope.inference.schema import LINEAR_HEAD

if TYPE_CHECKING:
    import numpy.typing as npt

    from pneumoscope.core.records import Progress, Sample
    from pneumoscope.inference.bundle import Bundle

NO_CAUSE = {
    "error_rate": 0.0,
    "bacterial_from": 0.0,
    "viral_to": 1.0,
    "absent": "the images of the site do not say the cause",
}
"""The ``etiology`` of a bundle that knows no cause at its site: both fit every image."""

USE = (
    "Research and decision support on frontal chest radiographs of patients like those of one site, {ages}, "
    "beside a reader who decides. Not a medical device."
)
LIMIT = (
    "Adapted to {films} images of one site, by which its choice was also judged; other sites need their own."
)


@dataclass(frozen=True)
class Local:
    """N labelled images of a site as seen, and M without labels."""

    samples: Sequence[Sample]
    seen: Sequence[Observation]
    unlabelled: Sequence[Observation] = ()


@dataclass(frozen=True)
class SiteBundle:
    """What an adaptation makes of a bundle.

    Attributes:
        films: every labelled image, with the verdict of a gate that other patients fitted where it is new.
        adapted: how they are answered.
        keys: of the bundle's document that are new, beside those of the line.
        arrays: that are new.
        document: the choice and its reasons, as plain values.
    """

    films: LocalFilms
    adapted: Adapted
    keys: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The new keys, with the figures of ``result`` in place of those of the training's validation."""
        if not self.keys:
            return {}
        names = ("roc_auc", "sensitivity", "specificity")
        return {**self.keys, "validation": {name: result["figures"][name] for name in names}}


def observe_site(
    bundle: Bundle, files: Sequence[Path], progress: Progress | None = None
) -> tuple[Observation, ...]:
    """What gate and network see of every file.

    Raises:
        PneumoscopeError: one of them cannot be read.
    """
    found: list[Observation] = []
    for _, outcome in observe_many(files, bundle):
        if isinstance(outcome, PneumoscopeError):
            raise outcome
        found.append(outcome)
        if progress:
            progress(len(found), len(files))
    return tuple(found)


def local_films(bundle: Bundle, local: Local) -> LocalFilms:
    """The labelled images as the bundle answers them today."""
    return LocalFilms(
        _probability(bundle, local.seen),
        np.array([sample.label is not Label.NORMAL for sample in local.samples]),
        tuple(sample.patient_id for sample in local.samples),
        tuple(one.verdict for one in local.seen),
    )


def adapt_bundle(bundle: Bundle, local: Local, films: LocalFilms, settings: CommissionConfig) -> SiteBundle:
    """Choose an adaptation, and fit gate and ages where one is taken.

    Images take part whatever the bundle's gate says of features, picture and age; what the rules about the
    source refuse does not.

    Args:
        bundle: of before.
        local: what was seen.
        films: of :func:`local_films`.
        settings: prevalence, resamples and seed.

    Raises:
        InputError: too few patients of a class.
        LeakageError: an unlabelled image was in the bundle's training data.
    """
    _check_unlabelled(bundle, local.unlabelled)
    rows = np.flatnonzero([usable(one.findings) for one in local.seen])
    features = np.stack([one.features for one in local.seen]).astype(np.float64)
    more = _probability(bundle, [one for one in local.unlabelled if usable(one.findings)])
    own = films.take(rows)
    site = SiteImages(own, features[rows], bundle_prior(bundle.document), more)
    found = adapt(site, resamples=settings.resamples, seed=settings.seed)
    curve = learning_curve(site, resamples=settings.resamples, seed=settings.seed)
    document = {**found.document, "curve": curve, "unlabelled": len(more)}
    if not found.taken:
        return SiteBundle(films, plain(films, settings.seed, "none"), document=document)
    gate = _Gate(bundle, local, rows, settings.seed)
    verdicts = [Verdict.REFUSE] * len(films.verdicts)
    for row, verdict in zip(rows.tolist(), gate.verdicts(found.scores.fold), strict=True):
        verdicts[row] = verdict
    new = LocalFilms(films.probability, films.positive, films.patients, tuple(verdicts))
    keys, arrays = _parts(bundle, local, rows, found, gate)
    before = sum(verdict is Verdict.REFUSE for verdict in films.verdicts)
    refused = proportion_estimate(before, len(films.verdicts))
    assert refused is not None, "there are images"
    document |= {
        "refused_before": {"value": refused.value, "low": refused.low, "high": refused.high, "n": refused.n},
        "ages": keys.get("population", {}).get("age_years"),
    }
    return SiteBundle(new, found.placed(films, rows), keys, arrays, document)


def _probability(bundle: Bundle, seen: Sequence[Observation]) -> npt.NDArray[np.float64]:
    """(N,) of pneumonia, as the bundle gives it today."""
    if not seen:
        return np.empty(0)
    logits = np.stack([one.logits for one in seen])
    return np.asarray(calibrated_probabilities(logits, bundle.document["calibration"])[:, 1:].sum(axis=1))


def _check_unlabelled(bundle: Bundle, seen: Sequence[Observation]) -> None:
    known = frozenset(bundle.document["training"]["films"])
    leaks = [("unlabelled image", "film") for one in seen if film_key(one.sha256) in known]
    if leaks:
        raise leakage_error(leaks, len(seen))


def lung_gate(bundle: Bundle) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """What a bundle's gate knows of lungs: ``lungs`` of its document, and its arrays; empty without."""
    kept = {"lungs": bundle.document["gate"]["lungs"]} if "lungs" in bundle.document["gate"] else {}
    return kept, {name: array for name, array in bundle.arrays.items() if kept and name.startswith("lungs_")}


class _Gate:
    """The gate of a site, fitted to the usable images ``rows``."""

    def __init__(self, bundle: Bundle, local: Local, rows: npt.NDArray[np.int64], seed: int) -> None:
        seen = [local.seen[row] for row in rows.tolist()]
        self.images = GateImages(
            np.stack([one.features for one in seen]),
            join(one.appearance for one in seen),
            tuple(local.samples[row].patient_id for row in rows.tolist()),
            tuple(one.findings for one in seen),
            tuple(one.lungs for one in seen),
            lung_gate(bundle),
        )
        gate = bundle.document["gate"]
        self.how: dict[str, Any] = {
            "rate": gate["false_refusal_rate"], "pictures": "appearance" in gate, "seed": seed,
        }  # fmt: skip

    def verdicts(self, fold: npt.NDArray[np.int64]) -> tuple[Verdict, ...]:
        """On every image, by a gate of other folds' patients."""
        return site_verdicts(self.images, fold, **self.how)

    def fit(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
        """The gate of all images, and its arrays."""
        return fit_site_gate(self.images, np.arange(len(self.images.features)), **self.how)


def _parts(
    bundle: Bundle, local: Local, rows: npt.NDArray[np.int64], found: Adaptation, gate: _Gate
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """New keys and arrays of the bundle: gate, ages, words, and the head where there is a new one."""
    samples = [local.samples[row] for row in rows.tolist()]
    seen = [local.seen[row] for row in rows.tolist()]
    ages = site_ages(
        [s.age_years if s.age_years is not None else o.age_years for s, o in zip(samples, seen, strict=True)]
    )
    document, arrays = gate.fit()
    keys: dict[str, Any] = {"gate": document}
    keys["limitations"] = [*bundle.document["limitations"], LIMIT.format(films=len(rows))]
    if ages is not None:
        keys["population"] = {"age_years": ages}
        keys["intended_use"] = USE.format(ages=f"{ages[0]} to {ages[1]} years of age")
    usual = bundle.usual_ages
    other = ages is not None and usual is not None and not (usual[0] <= ages[0] and ages[1] <= usual[1])
    if bundle.task is Task.THREE_CLASS and (found.head or other):
        keys["etiology"] = dict(NO_CAUSE)
    if not found.head:
        return keys, dict(arrays)
    keys["adaptation"] = {
        "method": LINEAR_HEAD,
        "films": sorted(film_key(sample.sha256) for sample in samples),
        "patients": sorted({patient_key(sample.patient_id) for sample in samples}),
    }
    return keys, {**arrays, **head_arrays(found, len(bundle.task.classes))}


def head_arrays(found: Adaptation, classes: int) -> dict[str, npt.NDArray[Any]]:
    """``head_weight`` (K, C) and ``head_bias`` (K,): normal has the logit 0, the others share pneumonia's.

    The log-odds of pneumonia in their softmax are those of the head, whatever the number of classes.
    """
    assert found.fit.weight is not None, "of a head"
    weight = np.zeros((classes, len(found.fit.weight)))
    weight[1:] = found.fit.weight
    bias = np.full(classes, found.fit.offset - np.log(classes - 1))
    bias[0] = 0.0
    return {"head_weight": weight, "head_bias": bias}
