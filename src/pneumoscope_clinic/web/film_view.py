"""View model of an image for pages: its state or result in the reader's language, and its pictures.

:class:`FilmView` is for the study page, :class:`Outcome` for lists. A result of silent mode is shown to
nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pneumoscope.core.records import Verdict
from pneumoscope_clinic.image_errors import problem_sentence
from pneumoscope_clinic.results.messages import (
    answer_sentence,
    evidence_sentence,
    image_messages,
    interval_sentence,
    selection_messages,
)
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.studies import reference_of, shown, state_of
from pneumoscope_clinic.store.tables import Film, Study
from pneumoscope_clinic.web.charts import Gauge, gauge
from pneumoscope_clinic.web.translation import Words

N_ = str  # marks messages for the extraction

DIAGNOSES = {
    "normal": N_("no pneumonia"),
    "bacterial": N_("bacterial pneumonia"),
    "viral": N_("viral pneumonia"),
    "pneumonia-unspecified": N_("pneumonia, cause not known"),
    "other": N_("something else"),
}
"""Final diagnoses (``store.tables.Feedback``), as readers read them."""

_OUTCOMES = {
    "waiting": N_("Waiting"),
    "running": N_("Being examined"),
    "failed": N_("Not readable"),
    "withheld": N_("Received"),
    "refused": N_("Refused"),
    "abstained": N_("No answer"),
    "positive": N_("Pneumonia likely"),
    "negative": N_("Pneumonia unlikely"),
}
_STATES = {"waiting": "waiting", "running": "running", "failed": "failed", "done": "waiting"}
"""Of an image without a result; a job that is done has one a moment later."""
_VERDICTS = {
    Verdict.ANSWER: N_("passed"),
    Verdict.WARN: N_("passed with a warning"),
    Verdict.REFUSE: N_("refused"),
}
_SOURCES = {
    "web": N_("sent by web page"),
    "api": N_("sent by program"),
    "dimse": N_("sent by DICOM"),
    "dicomweb": N_("fetched by DICOMweb"),
}
_WORDS = (  # of records, operating points and labels, shown by templates
    N_("POSITIVE"), N_("NEGATIVE"), N_("ABSTAIN"), N_("ANSWER"), N_("ANSWER WITH WARNING"), N_("REFUSE"),
    N_("BACTERIAL"), N_("VIRAL"), N_("UNCERTAIN"), N_("normal"), N_("balanced"), N_("screening"),
    N_("rule-in"), N_("cost"), N_("pneumonia-unspecified"), N_("other"),
)  # fmt: skip
_SHIPPED_LIMITS = (  # of the bundles inside the package
    N_("Trained on films of one hospital; other devices, ages and diseases may shift its answers."),
    N_("The films came without clinical histories, and etiology labels are noisy."),
    N_("It tells pneumonia from normal films only; it does not look for any other finding."),
    N_(
        "Research and decision support on frontal chest radiographs of children, beside a reader who "
        "decides. Not a medical device; not for use without a radiologist or paediatrician."
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image: ``key`` names icon and colour, ``title`` says it."""

    key: str
    title: str


@dataclass(frozen=True, slots=True)
class Map:
    """A heat map: its class, where it is, and what it is called."""

    name: str
    address: str
    title: str


@dataclass(frozen=True, slots=True)
class FilmView:
    """An image for the study page; ``record`` is None while there is no answer that may be shown."""

    id: str
    address: str
    batch_id: str | None
    received_at: datetime
    source: str
    shown: Outcome
    sentence: str
    evidence: str | None
    waiting: bool
    record: Mapping[str, Any] | None
    warnings: list[str]
    gauge: Gauge | None
    gauge_text: str
    calibration: str
    facts: list[tuple[str, str, str]]
    nearest: Sequence[Mapping[str, Any]] | None
    limits: list[str]
    picture: str | None
    no_picture: str
    sides: str
    maps: list[Map]

    @property
    def answered(self) -> bool:
        """There is a positive or negative answer to agree with."""
        return self.shown.key in ("positive", "negative")

    @property
    def may_judge(self) -> bool:
        """A diagnosis may be given: the image was examined, whatever the answer."""
        return self.shown.key in ("positive", "negative", "abstained", "refused", "withheld")


def outcome_of(film: Film, of: Words) -> Outcome:
    """What became of ``film``, loaded with its result and jobs."""
    key = film_outcome(film)
    return Outcome(key, of(_OUTCOMES[key]))


def film_outcome(film: Film) -> str:
    """What became of ``film``: a key of :class:`Outcome`."""
    result = shown(film)
    if result is None:
        return "withheld" if film.result is not None else _STATES[state_of(film)[0]]
    if result.probability is None:
        return "refused"
    return {"POSITIVE": "positive", "NEGATIVE": "negative"}.get(result.decision, "abstained")


def study_title(store: Store, study: Study, of: Words) -> str:
    """What the sender calls a study, else our own number."""
    return reference_of(store, study) or of("Study {number}").format(number=study.id[:8])


def shown_probability(film: Film, of: Words) -> str | None:
    """The probability of an answer that may be shown; None where there is none."""
    result = shown(film)
    return None if result is None or result.probability is None else of.percent(result.probability)


def verdict_title(verdict: str, of: Words) -> str:
    """The gate's verdict in words."""
    return of(_VERDICTS[Verdict(verdict)])


def film_view(film: Film, of: Words, document: Mapping[str, Any] | None) -> FilmView:
    """Everything that the study page shows of an image.

    Args:
        film: loaded with study, result and jobs.
        of: the reader's language.
        document: ``bundle.json`` of the bundle that answered; None where it is gone.
    """
    outcome = outcome_of(film, of)
    result = shown(film)
    address = f"/studies/{film.study_id}/films/{film.id}"
    record = None if result is None else result.record
    explanation = None if record is None else record["explanation"]
    point = None if record is None else _point(record, document)
    has_picture = film.result is not None and not film.pixels_gone
    return FilmView(
        id=film.id,
        address=address,
        batch_id=film.batch_id,
        received_at=film.created_at,
        source=of(_SOURCES[film.source]),
        shown=outcome,
        sentence=answer_sentence(record, of) if record is not None else _no_answer(film, outcome.key, of),
        evidence=None if record is None else evidence_sentence(record, of),
        waiting=outcome.key in ("waiting", "running"),
        record=record,
        warnings=[] if record is None else [_sentence(text) for text in image_messages(record, of)],
        gauge=_gauge(record, document),
        gauge_text=_gauge_text(record, of),
        calibration=_calibration(record, document, of),
        facts=[] if record is None else [*_answer_facts(record, point, of), *_film_facts(film, of)],
        nearest=None if explanation is None else explanation["nearest"] or [],
        limits=[] if record is None else [of(limit) for limit in record["limitations"]],
        picture=f"{address}/picture.jpg" if has_picture else None,
        no_picture=_no_picture(film, outcome.key, of),
        sides="" if explanation is None else "LR" if explanation["mirrored"] else "RL",
        maps=[] if record is None else _maps(record, address, of),
    )


def _no_answer(film: Film, key: str, of: Words) -> str:
    if key == "withheld":
        return of("The image was received and examined. In silent mode the answer is shown to nobody.")
    if key == "running":
        return of("The image is being examined; this takes a few seconds.")
    if key == "waiting":
        return of("The image is safe and waits for its examination.")
    return problem_sentence(state_of(film)[1] or {}, of)


def _no_picture(film: Film, key: str, of: Words) -> str:
    if film.pixels_gone:
        return of("The image's pixels were deleted when their time was over; the answer stays.")
    if key == "failed":
        return of("There is no picture: the image could not be read, for the reason on this page.")
    return of("The image is shown once it is examined.")


def _sentence(text: str) -> str:
    """``text`` with a capital at its start."""
    return text[:1].upper() + text[1:]


def _point(record: Mapping[str, Any], document: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The operating point with what validation images showed there, where the bundle is at hand."""
    points = [] if document is None else document["operating_points"]
    return next((one for one in points if one["name"] == record["operating_point"]), None)


def _gauge(record: Mapping[str, Any] | None, document: Mapping[str, Any] | None) -> Gauge | None:
    if record is None or record["probability"] is None:
        return None
    bounds = {} if document is None else document.get("selection", {})
    doubt = None
    if "pneumonia_from" in bounds:
        low, high = sorted((bounds["pneumonia_from"], bounds["normal_to"]))
        doubt = (low, high)
    return gauge(record["probability"], record["threshold"], doubt)


def _gauge_text(record: Mapping[str, Any] | None, of: Words) -> str:
    if record is None or record["probability"] is None:
        return ""
    return of("Probability of pneumonia {probability}; positive from {threshold}").format(
        probability=of.percent(record["probability"]), threshold=of.percent(record["threshold"])
    )


def _calibration(record: Mapping[str, Any] | None, document: Mapping[str, Any] | None, of: Words) -> str:
    """The interval of the probability, or else how far such probabilities were off on validation images."""
    interval = None if record is None else interval_sentence(record, of)
    if interval is not None:
        return interval
    error = None if document is None else document["validation"].get("ece")
    if error is None:
        return ""
    message = (
        "Over {n} validation images such probabilities were off by {value} on average (expected calibration "
        "error, 95 % interval {low} to {high}). The bundle has no interval for a single image."
    )
    figures = {key: of.percent(error[key]) for key in ("value", "low", "high")}
    return of(message).format(n=of.number(error["n"]), **figures)


def _answer_facts(
    record: Mapping[str, Any], point: Mapping[str, Any] | None, of: Words
) -> list[tuple[str, str, str]]:
    facts = [(of("Gate"), verdict_title(record["gate"]["verdict"], of), "")]
    if record["probability"] is None:
        return facts
    name, etiology = record["operating_point"], record["etiology"]
    threshold = of("{name}: positive from {threshold}").format(
        name=of(name), threshold=of.percent(record["threshold"])
    )
    facts.append((of("Operating point"), threshold, _validated(point, of)))
    if record["answer_set"] is not None:
        facts.append((of("Cannot be excluded"), *_set(record["answer_set"], of)))
    if etiology is not None:
        facts.append((of("Etiology"), of(etiology), _shares(record, of)))
    reasons = selection_messages(record, of)
    if reasons:
        facts.append((of("Reasons"), _sentence("; ".join(reasons)), ""))
    return facts


def _validated(point: Mapping[str, Any] | None, of: Words) -> str:
    """What the threshold did on validation images, with 95 % intervals where there are some."""
    if point is None or "intervals" not in point:
        return ""
    values: list[str] = []
    for key in ("sensitivity", "specificity"):
        found = point["intervals"][key]
        values += [of.percent(found[part]) for part in ("value", "low", "high")] + [of.number(found["n"])]
    message = (
        "On validation images: sensitivity {0} ({1} to {2}, n = {3}), specificity {4} ({5} to {6}, n = {7})."
    )
    return of(message).format(*values)


def _set(found: Mapping[str, Any], of: Words) -> tuple[str, str]:
    answers = of.enumeration([of(name) for name in found["answers"]]) or of("neither answer fits")
    return answers, of("at an error rate of {0}").format(of.percent(found["error_rate"]))


def _shares(record: Mapping[str, Any], of: Words) -> str:
    kinds = [name for name in record["probabilities"] if name != "normal"]
    return ", ".join(f"{of(name)} {of.percent(record['probabilities'][name])}" for name in kinds)


def _film_facts(film: Film, of: Words) -> list[tuple[str, str, str]]:
    known = film.facts
    kind = [str(known[name]) for name in ("format", "modality", "view_position") if known.get(name)]
    if "rows" in known:
        kind.append(f"{of.number(known['columns'])} × {of.number(known['rows'])}")
    facts = [(of("Image"), ", ".join(kind), str(known.get("manufacturer") or ""))]
    if film.age_years is not None:
        facts.append(
            (
                of("Age"),
                of("{n} years").format(n=of.number(film.age_years, 0 if film.age_years >= 3 else 1)),
                "",
            )
        )
    return facts


def _maps(record: Mapping[str, Any], address: str, of: Words) -> list[Map]:
    """The maps of the kinds of pneumonia, the likelier one first; a bundle without kinds has one map."""
    explanation = record["explanation"]
    if explanation is None:
        return []
    kinds = sorted(
        (name for name in record["probabilities"] if name != "normal"),
        key=lambda n: n != explanation["target"],
    )
    titles = {name: name if name == "pneumonia" else f"{name} pneumonia" for name in kinds}
    return [
        Map(
            name,
            f"{address}/heat/{name}.png",
            f"{_sentence(of(titles[name]))}, {of.percent(record['probabilities'][name])}",
        )
        for name in kinds
    ]
