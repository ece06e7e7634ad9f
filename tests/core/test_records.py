"""The records: what a label means for a task, how an image lies in the model input; nothing changes."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from pneumoscope.core.records import (
    GateVerdict,
    Geometry,
    Label,
    OperatingPoint,
    Preprocessing,
    Radiograph,
    Sample,
    Task,
    Verdict,
    freeze,
)


@pytest.mark.parametrize(
    ("label", "binary", "three_class"),
    [
        (Label.NORMAL, 0, 0),
        (Label.BACTERIAL, 1, 1),
        (Label.VIRAL, 1, 2),
        (Label.PNEUMONIA, 1, None),
    ],
)
def test_targets(label, binary, three_class):
    assert Task.BINARY.target(label) == binary
    assert Task.THREE_CLASS.target(label) == three_class


def test_classes_begin_with_normal():
    assert Task.BINARY.classes == ("normal", "pneumonia")
    assert Task.THREE_CLASS.classes == ("normal", "bacterial", "viral")


def test_names_are_what_files_and_people_see():
    assert Label("pneumonia-unspecified") is Label.PNEUMONIA
    assert f"{Verdict.WARN}" == "ANSWER WITH WARNING"
    assert Task("three-class") is Task.THREE_CLASS


def test_a_squashed_film_fills_the_input():
    geometry = Geometry(original_size=(400, 800), input_size=224, content=(0, 0, 224, 224))
    assert geometry.scale == (0.56, 0.28)
    assert geometry.padding == (0, 0, 0, 0)


def test_a_letterboxed_film_has_padding_and_one_scale():
    geometry = Geometry(original_size=(400, 800), input_size=224, content=(56, 0, 112, 224))
    assert geometry.scale == (0.28, 0.28)
    assert geometry.padding == (56, 0, 56, 0)


def test_frozen_arrays_cannot_be_written():
    array = np.zeros(3)
    assert freeze(array) is array
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (Sample("a.png", "0" * 64, "p1", "p1", Label.NORMAL), "label"),
        (Preprocessing(), "size"),
        (OperatingPoint("balanced", 0.5), "threshold"),
        (Radiograph(np.zeros((2, 2), np.float32), (2, 2)), "pixels"),
    ],
)
def test_records_are_frozen(record, field):
    with pytest.raises(FrozenInstanceError):
        setattr(record, field, None)


def test_default_mappings_are_read_only_and_empty():
    verdict = GateVerdict(Verdict.ANSWER)
    assert dict(verdict.scores) == {}
    with pytest.raises(TypeError):
        verdict.scores["distance"] = 1.0
