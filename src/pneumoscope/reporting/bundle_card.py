"""Model card of a bundle in Markdown, made from ``bundle.json`` and, where given, its release check.

It is a view of the bundle, not a part of it: ``SHA256SUMS`` does not list it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pneumoscope.core.format import markdown_table
from pneumoscope.core.records import Task
from pneumoscope.evaluation.metrics import TITLES
from pneumoscope.evaluation.operating_points import RULE_IN_SPECIFICITY, SCREENING_SENSITIVITY
from pneumoscope.reporting.release_page import release_markdown

CARD = "CARD.md"
"""What the card is called in a bundle's folder."""

_ANSWERS = {
    Task.BINARY: "A probability of pneumonia.",
    Task.THREE_CLASS: "A probability of pneumonia and, for an image that is called positive, whether it "
    "looks bacterial or viral, or that this is uncertain.",
}
_FITS = {
    "squash": "stretched to {size} x {size} pixels, whatever its proportions",
    "letterbox": "fitted into {size} x {size} pixels with its proportions, the rest black",
    "lungs": "cropped to the box of both lungs, which is stretched to {size} x {size} pixels",
}
_EXPLANATIONS = {
    "class-activation": "a class-activation map, read from the network's last feature map",
    "occlusion": "occlusion: how much the answer changes when a patch of the image is hidden",
}
_POINTS = {
    "screening": f"misses few: highest specificity at a sensitivity of at least {SCREENING_SENSITIVITY}",
    "balanced": "weighs images with and without pneumonia alike",
    "rule-in": f"alarms little: highest sensitivity at a specificity of at least {RULE_IN_SPECIFICITY}",
    "cost": "makes errors cheapest",
}


def bundle_card(document: Mapping[str, Any], address: str, release: Mapping[str, Any] | None = None) -> str:
    """The card of a bundle, Markdown that ends with a line break.

    Args:
        document: content of ``bundle.json``.
        address: what ``load_bundle`` takes to open it: a shipped name, or a directory.
        release: content of ``release.json``; None: the card says nothing of a release check.
    """
    blocks = (
        *_head(document),
        *_loading(address),
        *_answers(document),
        *_preprocessing(document),
        *_training(document),
        *_figures(document),
        *_release(release),
        *_operating_points(document),
        *_abstention(document),
        *_gate(document),
        *_limits(document),
        *_provenance(document),
    )
    return "\n\n".join(blocks) + "\n"


def _head(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {document['name']}"
    yield f"`{document['id']}`, made on {document['created'][:10]}."
    yield document["intended_use"]


def _loading(address: str) -> Iterator[str]:
    yield "## How to load it"
    yield f'```python\nimport pneumoscope as ps\n\nbundle = ps.load_bundle("{address}")\n```'
    yield f"On the command line: `pneumoscope predict film.png --bundle {address}`."


def _answers(document: Mapping[str, Any]) -> Iterator[str]:
    network, explanation = document["network"], document["explanation"]["method"]
    yield "## What it answers"
    yield _ANSWERS[Task(document["task"])]
    if Task(document["task"]) is Task.THREE_CLASS:
        yield _etiology(document["etiology"])
    channels, rows, columns = network["feature_shape"]
    yield (
        f"Network: {network['name']}, {network['parameters']:,} parameters, last feature map of "
        f"{channels} x {rows} x {columns}. Heat maps: {_EXPLANATIONS[explanation]}."
    )
    origin = document.get("derived_from")
    if origin:
        yield (
            f"Derived from `{origin['id']}` by {origin['method']}. Its calibration, operating points, gate "
            "and the figures below are its own."
        )


def _etiology(values: Mapping[str, Any]) -> str:
    share = "the share of bacterial in the probability of pneumonia"
    if "bacterial_from" in values:
        return (
            f"The etiology is bacterial from {values['bacterial_from']:.3f} of {share} on, viral up to "
            f"{values['viral_to']:.3f}, and uncertain where both or neither hold: of new patients of either "
            f"cause at most {100 * values['error_rate']:g} % are given the other one "
            f"({_patients(values)})."
        )
    if "margin" in values:
        return (
            "The etiology is uncertain when the shares of bacterial and viral in the probability of pneumonia"
            f" differ by less than {values['margin']:g}."
        )
    return f"The likelier etiology is always named: {values['absent']}."


def _patients(values: Mapping[str, Any]) -> str:
    counts = " and ".join(f"{count:,} {name}" for name, count in values["patients"].items())
    return f"{values['method']}; {counts} validation patients"


def _preprocessing(document: Mapping[str, Any]) -> Iterator[str]:
    values = document["preprocessing"]
    low, high = values["percentiles"]
    exposure = {
        "percentile": f"the percentiles {low:g} and {high:g} of its grey values are mapped to 0 and 1",
        "none": "its grey values are taken as they are",
    }
    yield "## Preprocessing"
    yield (
        f"An image is {_FITS[values['fit']].format(size=values['size'])}, and "
        f"{exposure[values['exposure']]}. The bundle does this itself; callers pass files."
    )


def _training(document: Mapping[str, Any]) -> Iterator[str]:
    training = document["training"]
    yield "## Training data"
    yield markdown_table(
        ("what", "value"),
        [
            ("data set", training["dataset_name"]),
            ("SHA-256 of its manifest", f"`{training['dataset_hash']}`"),
            ("split", ", ".join(f"{key} {value}" for key, value in training["split"].items())),
            *((f"{part} images", f"{count:,}") for part, count in training.get("counts", {}).items()),
            ("patients", f"{len(training['patients']):,}"),
            ("started from", training.get("initial_weights", "not said")),
        ],
    )
    yield (
        "`bundle.json` names every image and every patient of both parts by hash; `pneumoscope evaluate` "
        "refuses to score them."
    )


def _figures(document: Mapping[str, Any]) -> Iterator[str]:
    estimates = document["validation"]
    default = document["default_operating_point"]
    yield "## Validation figures"
    protocol = document.get("validation_protocol")
    where = "On the validation images" if protocol is None else f"By {protocol}"
    yield (
        f"{where}, at the operating point `{default}`. The same images chose calibration and operating "
        "points, so new images of the same hospital do a little worse, and those of other hospitals and ages "
        "can do much worse."
    )
    yield markdown_table(
        ("figure", "value", "95 % interval", "images"),
        [
            (title, f"{found['value']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}", f"{found['n']:,}")
            for title, found in ((TITLES.get(name, name), estimates[name]) for name in estimates)
        ],
    )


def _release(release: Mapping[str, Any] | None) -> Iterator[str]:
    if release is not None:
        yield "## Release check"
        yield release_markdown(release)


def _operating_points(document: Mapping[str, Any]) -> Iterator[str]:
    yield "## Operating points"
    yield "An image is positive when its calibrated probability of pneumonia is at least the threshold."
    rows = []
    for point in document["operating_points"]:
        name, meaning = point["name"], _POINTS.get(point["name"], "")
        if name == document["default_operating_point"]:
            meaning = f"{meaning} (default)".strip()
        known = point.get("intervals", {})
        shares = (_share(point[key], known.get(key)) for key in ("sensitivity", "specificity"))
        cells = (f"{point['threshold']:.4f}", *shares)
        rows.append((f"`{name}`", *cells, f"{point['n']:,}", meaning))
    yield markdown_table(("name", "threshold", "sensitivity", "specificity", "images", "what for"), rows)
    if all("predictive_values" in point for point in document["operating_points"]):
        yield from _predictive_values(document["operating_points"])
    yield from _calibration(document["calibration"])


def _predictive_values(points: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Positive and negative predictive value of every point at every prevalence, with intervals."""
    yield (
        "What an answer is worth depends on how common pneumonia is; with 95 % intervals, from the "
        "sensitivity and specificity above:"
    )
    rows = [
        (
            f"`{point['name']}`",
            f"{row['prevalence']:.1%} ({row['what']})",
            *map(_worth, (row["ppv"], row["npv"])),
        )
        for point in points
        for row in point["predictive_values"]
    ]
    yield markdown_table(
        ("name", "prevalence", "pneumonia among the positive", "normal among the negative"), rows
    )


def _worth(estimate: Mapping[str, Any] | None) -> str:
    return "none is called so" if estimate is None else _share(estimate["value"], estimate)


def _calibration(calibration: Mapping[str, Any]) -> Iterator[str]:
    numbers = ""
    if "temperature" in calibration:
        numbers = f", temperature {calibration['temperature']:.3f}"
    if calibration.get("bias"):
        numbers += f", bias {', '.join(f'{bias:.3f}' for bias in calibration['bias'])}"
    compared = calibration.get("candidates", ())
    how = " It was the simplest within one standard error of the best, on images it was not fitted to:"
    yield f"Calibration: {calibration['method']}{numbers}.{how if compared else ''}"
    if compared:
        keys = ("log_loss", "brier", "above_best", "standard_error")
        rows = [(one["method"], *(f"{one[key]:.4f}" for key in keys)) for one in compared]
        yield markdown_table(
            ("method", "log loss", "Brier score", "log loss above the best", "standard error"), rows
        )
    band = calibration.get("interval")
    if band is not None:
        yield (
            "Every probability of pneumonia comes with a 95 % interval, as far as "
            f"{band['n']:,} images of {band['patients']:,} patients pin the calibration down "
            f"({band['method']})."
        )


def _abstention(document: Mapping[str, Any]) -> Iterator[str]:
    values = document.get("selection")
    if values is None:
        return
    yield "## Abstention"
    if "absent" in values:
        yield f"Every image that the gate lets pass is answered: {values['absent']}."
        return
    low, high = sorted((values["normal_to"], values["pneumonia_from"]))
    doubt = "fits both answers" if values["pneumonia_from"] <= values["normal_to"] else "fits neither answer"
    yield (
        f"An image whose probability of pneumonia lies between {low:.4f} and {high:.4f} {doubt} and is not "
        "answered (ABSTAIN; its probability is shown). Of new patients of either class at most "
        f"{100 * values['error_rate']:g} % get the wrong answer, if they are drawn as the validation "
        f"patients were ({_patients(values)}). An operating point below this range calls every image from "
        "its threshold on, with more false alarms than that; one above it calls none below its threshold."
    )


def _gate(document: Mapping[str, Any]) -> Iterator[str]:
    gate = document["gate"]
    yield "## Gate"
    yield (
        "An image is answered with a warning when its features lie farther from those of the training images "
        f"than {gate['warn_distance']:.3f}, and refused beyond {gate['refuse_distance']:.3f}. Of new images "
        f"from the same source at most {gate['false_refusal_rate']:.1%} lie beyond the first distance, which "
        f"{gate['n']:,} validation images set. What is no frontal chest radiograph by its file or its pixels "
        "is refused too."
    )


def _limits(document: Mapping[str, Any]) -> Iterator[str]:
    yield "## Limits"
    yield "\n".join(f"- {limitation}" for limitation in document["limitations"])


def _provenance(document: Mapping[str, Any]) -> Iterator[str]:
    training, origin = document["training"], document.get("derived_from", {})
    yield "## Made with"
    rows = [("training", training["versions"]), ("quantisation", origin.get("versions", {}))]
    yield "\n".join(
        f"- {what}: {', '.join(f'{name} {version}' for name, version in versions.items())}"
        for what, versions in rows
        if versions
    )
    yield "The whole configuration and the seeds are in `bundle.json`; `SHA256SUMS` is checked on every load."


def _share(value: float | None, interval: Mapping[str, Any] | None = None) -> str:
    if value is None:
        return "not known"
    return f"{value:.4f}" + (f" ({interval['low']:.4f} to {interval['high']:.4f})" if interval else "")
