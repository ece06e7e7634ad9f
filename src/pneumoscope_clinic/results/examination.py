"""A stored result back as the records that the drawing and describing functions take.

In: a :class:`FilmResult`. Out: the radiograph and the examination that its record was made from, without what
the record does not keep (logits, class-activation features).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from pneumoscope.core.records import (
    AnswerSet,
    Decision,
    Etiology,
    Examination,
    Explanation,
    FloatArray,
    GateVerdict,
    NearestCase,
    OperatingPoint,
    Prediction,
    Radiograph,
    Verdict,
)
from pneumoscope_clinic.results.film_result import FilmResult, Grey


def radiograph_of(result: FilmResult) -> Radiograph:
    """The film; its pixels stay at the size at which they were stored."""
    return Radiograph(
        pixels=np.asarray(result.picture / np.float32(255), np.float32), original_size=result.original_size
    )


def examination_of(result: FilmResult) -> Examination:
    """The examination, with its heat maps on the film's original grid."""
    record = result.record
    return Examination(
        file=result.film_id,
        sha256=record["sha256"],
        gate=GateVerdict(
            Verdict(record["gate"]["verdict"]), tuple(record["gate"]["reasons"]), record["gate"]["scores"]
        ),
        prediction=None if result.refused else _prediction(record),
        explanation=_explanation(result),
        warnings=tuple(record["warnings"]),
        bundle_card=record["bundle_card"],
        limitations=tuple(record["limitations"]),
        versions=record["versions"],
        forced=record["forced"],
    )


def on_grid(heat_map: Grey, size: tuple[int, int]) -> FloatArray:
    """A stored heat map as (rows, columns) float32 in [0, 1], stretched over a grid of ``size``."""
    from PIL import Image

    smooth = Image.fromarray(heat_map).convert("F")
    if heat_map.shape != size:
        smooth = smooth.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(np.asarray(smooth) / np.float32(255))


def _prediction(record: Mapping[str, Any]) -> Prediction:
    return Prediction(
        logits=(),
        probabilities=record["probabilities"],
        probability=record["probability"],
        operating_point=OperatingPoint(record["operating_point"], record["threshold"]),
        decision=Decision(record["decision"]),
        etiology=None if record["etiology"] is None else Etiology(record["etiology"]),
        reasons=tuple(record["reasons"]),
        bundle_id=record["bundle"],
        answer_set=_answer_set(record["answer_set"]),
        etiology_set=_answer_set(record["etiology_set"]),
    )


def _answer_set(found: Mapping[str, Any] | None) -> AnswerSet | None:
    return None if found is None else AnswerSet(tuple(found["answers"]), found["error_rate"])


def _explanation(result: FilmResult) -> Explanation | None:
    """None where the film was not explained or its heat maps were not kept."""
    if result.target is None or result.heat_map is None:
        return None
    found = result.record["explanation"]
    maps = {name: on_grid(one, result.original_size) for name, one in result.heat_maps.items()}
    nearest = found["nearest"]
    return Explanation(
        heat_map=maps[result.target],
        method=found["method"],
        target=result.target,
        heat_maps=MappingProxyType(maps),
        zones=found["zones"],
        outside_lungs=found["outside_lungs"],
        sentence=found["sentence"],
        nearest=None if nearest is None else tuple(NearestCase(**case) for case in nearest),
        mirrored=found["mirrored"],
    )
