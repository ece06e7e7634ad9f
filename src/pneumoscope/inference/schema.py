"""Validation of ``bundle.json``, by hand because a validation library would double the cold start."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

from pneumoscope.core.errors import BundleError
from pneumoscope.core.records import Task

SCHEMA_VERSION = 1
"""Version of the layout of ``bundle.json`` that this release reads and writes."""

_KEYS: Mapping[str, type] = {
    "id": str,
    "name": str,
    "created": str,
    "task": str,
    "classes": list,
    "network": dict,
    "preprocessing": dict,
    "calibration": dict,
    "operating_points": list,
    "default_operating_point": str,
    "etiology": dict,
    "explanation": dict,
    "gate": dict,
    "training": dict,
    "validation": dict,
    "intended_use": str,
    "limitations": list,
}
CALIBRATIONS = ("temperature", "bias-corrected-temperature", "platt", "beta", "isotonic")
"""Methods of calibration that :func:`pneumoscope.inference.prediction.calibrated_probabilities` knows."""

LINEAR_HEAD = "linear-head"
"""Method of ``adaptation``: logits are linear in pooled features, by ``head_weight`` and ``head_bias``."""

_CURVES: Mapping[str, tuple[str, ...]] = {
    "platt": ("slope", "offset"),
    "beta": ("a", "b", "c"),
    "isotonic": ("x", "y"),
}
_FITS = ("squash", "letterbox", "lungs")
_EXPOSURES = ("percentile", "none")
_EXPLANATIONS = ("class-activation", "occlusion")


def check_document(document: Any, where: Path) -> None:
    """Check ``document`` against schema version 1.

    Args:
        document: the parsed ``bundle.json``.
        where: the file, for the message.

    Raises:
        BundleError: the schema version is another one, a key is missing, of a wrong type or out of range.
    """
    if not isinstance(document, dict):
        raise BundleError("not a JSON object", where=where)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"bundle schema version {version!r}",
            where=where,
            expected=f"version {SCHEMA_VERSION}",
            remedy="use the release of pneumoscope that wrote the bundle, or train again",
        )
    for key, kind in _KEYS.items():
        _require(isinstance(document.get(key), kind), where, key, f"a {kind.__name__}", document.get(key))
    if "derived_from" in document:
        _check_origin(document["derived_from"], where)
    _check_history(document, where)
    if "adaptation" in document:
        _check_adaptation(document["adaptation"], where)
    if "neighbours" in document:
        _check_neighbours(document["neighbours"], where)
    tasks = {task.value: task for task in Task}
    _require(document["task"] in tasks, where, "task", " or ".join(tasks), document["task"])
    classes = tasks[document["task"]].classes
    _require(tuple(document["classes"]) == classes, where, "classes", str(list(classes)), document["classes"])
    _check_preprocessing(document["preprocessing"], where)
    _check_decision(document, where)
    _check_outputs(document, where)


def _check_origin(values: Any, where: Path) -> None:
    """``derived_from`` is optional: the bundle that this one was made from, and how."""
    said = isinstance(values, dict) and all(isinstance(values.get(key), str) for key in ("id", "method"))
    _require(said, where, "derived_from", "an object with the texts 'id' and 'method'", values)


def _check_history(document: dict[str, Any], where: Path) -> None:
    """``version`` and ``history`` are optional: a bundle starts at 1, and each change of a site adds one."""
    version, history = document.get("version", 1), document.get("history", [])
    kept = isinstance(history, list) and all(
        isinstance(entry, dict) and "before" in entry for entry in history
    )
    _require(kept, where, "history", "a list of objects with 'before'", history)
    _require(
        version == 1 + len(history), where, "version", f"{1 + len(history)}, as the history says", version
    )


def _check_adaptation(values: Any, where: Path) -> None:
    """``adaptation`` is optional: a site's own head, and the images and patients that it was fitted to."""
    method = values.get("method") if isinstance(values, dict) else None
    _require(method == LINEAR_HEAD, where, "adaptation.method", LINEAR_HEAD, method)
    for key in ("films", "patients"):
        keys = values.get(key)
        named = isinstance(keys, list) and all(isinstance(one, str) for one in keys)
        _require(named, where, f"adaptation.{key}", "a list of texts", keys)


def _check_neighbours(values: Any, where: Path) -> None:
    """``neighbours`` is optional: the training images whose codes the bundle keeps."""
    films = values.get("films") if isinstance(values, dict) else None
    named = isinstance(films, list) and bool(films) and all(isinstance(film, str) for film in films)
    _require(named, where, "neighbours.films", "a list of texts", films)
    dimensions = values.get("dimensions")
    valid = isinstance(dimensions, int) and dimensions > 0
    _require(valid, where, "neighbours.dimensions", "a positive number", dimensions)


def _check_preprocessing(values: dict[str, Any], where: Path) -> None:
    expected = {"size", "fit", "exposure", "percentiles"} | (
        {"segmenter"} if values.get("fit") == "lungs" else set()
    )
    _require(set(values) == expected, where, "preprocessing", f"the keys {sorted(expected)}", sorted(values))
    if values["fit"] == "lungs":
        name = values["segmenter"]
        named = isinstance(name, str) and re.fullmatch("[0-9a-f]{12}", name) is not None
        _require(named, where, "preprocessing.segmenter", "12 hexadecimal digits", name)
    size, percentiles = values["size"], values["percentiles"]
    _require(isinstance(size, int) and 8 <= size <= 4096, where, "preprocessing.size", "8 to 4096", size)
    _require(values["fit"] in _FITS, where, "preprocessing.fit", " or ".join(_FITS), values["fit"])
    _require(
        values["exposure"] in _EXPOSURES,
        where,
        "preprocessing.exposure",
        " or ".join(_EXPOSURES),
        values["exposure"],
    )
    ordered = len(percentiles) == 2 and 0 <= percentiles[0] < percentiles[1] <= 100
    _require(ordered, where, "preprocessing.percentiles", "two rising numbers from 0 to 100", percentiles)


def _check_decision(document: dict[str, Any], where: Path) -> None:
    _check_calibration(document["calibration"], len(document["classes"]), where)
    points = document["operating_points"]
    names = [point.get("name") if isinstance(point, dict) else None for point in points]
    unique = bool(names) and None not in names and len(set(names)) == len(names)
    _require(unique, where, "operating_points", "at least one, each with a name of its own", names)
    for point in points:
        threshold = point.get("threshold")
        valid = _is_number(threshold) and 0 <= threshold <= 1
        _require(valid, where, f"operating_points.{point['name']}.threshold", "0 to 1", threshold)
    default = document["default_operating_point"]
    _require(default in names, where, "default_operating_point", f"one of {names}", default)
    margin = document["etiology"].get("margin", 0.0)
    _require(_is_number(margin) and 0 <= margin <= 1, where, "etiology.margin", "0 to 1", margin)
    _check_sets(document.get("selection", {}), "selection", ("pneumonia_from", "normal_to"), where)
    _check_sets(document["etiology"], "etiology", ("bacterial_from", "viral_to"), where)


def _check_sets(values: Any, part: str, bounds: tuple[str, str], where: Path) -> None:
    """Bounds of conformal sets are optional; without them the bundle may say why (``absent``)."""
    _require(isinstance(values, dict), where, part, "an object", values)
    if not any(bound in values for bound in bounds):
        return
    for key in ("error_rate", *bounds):
        valid = _is_number(values.get(key)) and 0 <= values[key] <= 1
        _require(valid, where, f"{part}.{key}", "0 to 1", values.get(key))


def _check_calibration(values: dict[str, Any], classes: int, where: Path) -> None:
    if "local" in values:
        local = values["local"]
        line = isinstance(local, dict) and all(_is_number(local.get(key)) for key in ("slope", "offset"))
        _require(line and local["slope"] > 0, where, "calibration.local", "slope > 0 and offset", local)
    if values.get("interval") is not None:
        _check_band(values["interval"], where)
    method = str(values.get("method"))
    _require(method in CALIBRATIONS, where, "calibration.method", " or ".join(CALIBRATIONS), method)
    if method in _CURVES:
        for question in ("pneumonia", "etiology")[: classes - 1]:
            _check_curve(values.get(question), _CURVES[method], f"calibration.{question}", where)
        return
    temperature = values.get("temperature")
    positive = _is_number(temperature) and temperature > 0
    _require(positive, where, "calibration.temperature", "a positive number", temperature)
    if method == "bias-corrected-temperature":
        bias = values.get("bias")
        valid = isinstance(bias, list) and len(bias) == classes and all(map(_is_number, bias))
        _require(valid, where, "calibration.bias", f"{classes} numbers", bias)


def _check_band(band: Any, where: Path) -> None:
    """Rising log-odds, with the lower and the upper end of the interval at each."""
    keys, part = ("log_odds", "low", "high"), "calibration.interval"
    _require(isinstance(band, dict) and set(keys) <= set(band), where, part, f"the keys {keys}", band)
    lists: list[Any] = [band[key] for key in keys]
    valid = all(isinstance(one, list) and one and all(map(_is_number, one)) for one in lists)
    _require(valid, where, part, "lists of numbers", band)
    grid, low, high = lists
    rising = len(grid) == len(low) == len(high) and all(a < b for a, b in pairwise(grid))
    ordered = rising and all(a <= x <= b for a, x, b in zip(low, grid, high, strict=True))
    _require(ordered, where, part, "rising log_odds between low and high, as many of each", band)


def _check_curve(values: Any, keys: tuple[str, ...], part: str, where: Path) -> None:
    """A rising curve of log-odds: numbers, or two lists of numbers of one length that rise."""
    _require(isinstance(values, dict) and set(values) == set(keys), where, part, f"the keys {keys}", values)
    if keys != _CURVES["isotonic"]:
        rising = all(map(_is_number, values.values())) and min(values[key] for key in keys[:-1]) > 0
        _require(rising, where, part, "numbers, all but the last positive", values)
        return
    lists = [values[key] for key in keys]
    valid = all(isinstance(one, list) and one and all(map(_is_number, one)) for one in lists)
    _require(valid, where, part, "lists of numbers", values)
    rising = len(lists[0]) == len(lists[1]) and all(
        low < high for one in lists for low, high in pairwise(one)
    )
    _require(rising, where, part, "rising numbers, as many x as y", values)


def _check_outputs(document: dict[str, Any], where: Path) -> None:
    method = document["explanation"].get("method")
    _require(method in _EXPLANATIONS, where, "explanation.method", " or ".join(_EXPLANATIONS), method)
    warn, refuse = (document["gate"].get(key) for key in ("warn_distance", "refuse_distance"))
    ordered = _is_number(warn) and _is_number(refuse) and 0 <= warn <= refuse
    _require(ordered, where, "gate", "0 <= warn_distance <= refuse_distance", document["gate"])
    for part in ("appearance", "lungs"):
        bounds = document["gate"].get(part, {})
        numbers = isinstance(bounds, dict) and all(map(_is_number, bounds.values()))
        _require(numbers, where, f"gate.{part}", "an object of numbers", bounds)
    if "lungs" in document["gate"]:
        bounds = document["gate"]["lungs"]
        first, last = bounds.get("warn_distance", 0), bounds.get("refuse_distance", 0)
        rising = 0 < first <= last and warn > 0
        _require(rising, where, "gate.lungs", "0 < warn_distance <= refuse_distance, as in gate", bounds)
    _check_population(document.get("population", {}), where)
    shape = document["network"].get("feature_shape")
    valid = isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    _require(valid, where, "network.feature_shape", "[channels, rows, columns]", shape)


def _check_population(values: Any, where: Path) -> None:
    """``population`` is optional: whom the training images show."""
    ages = values.get("age_years", [0, 0]) if isinstance(values, dict) else None
    valid = (
        isinstance(ages, list) and len(ages) == 2 and all(map(_is_number, ages)) and 0 <= ages[0] <= ages[1]
    )
    _require(valid, where, "population.age_years", "two rising numbers", ages)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(condition: bool, where: Path, key: str, expected: str, found: Any) -> None:
    if not condition:
        raise BundleError(f"'{key}' is {found!r}", where=where, expected=expected)
