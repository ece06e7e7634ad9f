from __future__ import annotations

import pytest

from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.records import Label
from pneumoscope.data.layouts import Skip, parse_class_map, require_known, to_label


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NORMAL", Label.NORMAL),
        ("No Finding", Label.NORMAL),
        ("no_finding", Label.NORMAL),
        ("Bacterial Pneumonia", Label.BACTERIAL),
        ("virus", Label.VIRAL),
        ("PNEUMONIA", Label.PNEUMONIA),
        ("Lung_Opacity", Label.PNEUMONIA),
        ("Infiltration|Pneumonia", Label.PNEUMONIA),
        ("COVID", None),
        ("Infiltration|Effusion", None),
        ("1", None),
    ],
)
def test_known_names(name: str, label: Label | None) -> None:
    assert to_label(name, {}) is label


@pytest.mark.parametrize(("name", "label"), [("0", Label.NORMAL), ("1.0", Label.PNEUMONIA), ("2", None)])
def test_numbers_count_where_they_are_allowed(name: str, label: Label | None) -> None:
    assert to_label(name, {}, numeric=True) is label


def test_the_users_mapping_wins() -> None:
    class_map = parse_class_map(["Lung Opacity=viral", "COVID=viral pneumonia", "TB=skip", "*=normal"])
    assert to_label("lung_opacity", class_map) is Label.VIRAL
    assert to_label("covid", class_map) is Label.VIRAL
    assert to_label("tb", class_map) is Skip.SKIP
    assert to_label("anything", class_map) is Label.NORMAL
    assert to_label("bacteria", class_map) is Label.BACTERIAL


@pytest.mark.parametrize("entry", ["COVID", "=viral", "COVID=nonsense"])
def test_a_bad_mapping_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="class mapping"):
        parse_class_map([entry])


def test_unknown_names_are_told_with_the_remedy() -> None:
    with pytest.raises(DatasetError, match=r"'COVID', 'TB'.*--map \"COVID=LABEL\""):
        require_known(["TB", "COVID", "TB"], "folder")
