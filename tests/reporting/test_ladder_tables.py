"""Rows and words of a ladder say what its JSON says."""

import csv
import io

import pytest

from pneumoscope.reporting.ladder_page import (
    FIGURES,
    control_rows,
    ladder_csv,
    ladder_markdown,
    oriented_tests,
    places,
    ranking_sentences,
    settings_text,
    started_from,
)

from .ladders import ladder_document


@pytest.fixture(scope="module")
def result():
    return ladder_document()


def test_ties_share_a_place(result):
    """The document's ranking is what its own tests say."""
    told_apart = {
        frozenset((pair["first"], pair["second"])) for pair in result["pairs"]
        if pair["auc"]["p_corrected"] < 0.05
    }  # fmt: skip
    assert told_apart == {frozenset(("good", "poor")), frozenset(("as-good", "poor"))}
    assert places(result) == {"good": "1=", "as-good": "1=", "poor": "2"}


def test_the_ranking_says_in_words_who_is_tied(result):
    first, second = ranking_sentences(result)
    best, tied = result["ranking"]["roc_auc"][0]
    value = {row["name"]: row["estimates"]["roc_auc"]["value"] for row in result["rungs"][:3]}
    assert first == (
        f"Place 1: {best} ({value[best]:.4f}); tied with it, as the test cannot tell them apart: "
        f"{tied} ({value[tied]:.4f})."
    )
    assert second == f"Place 2: poor ({value['poor']:.4f})."


def test_a_test_is_turned_with_its_pair(result):
    stored = next(pair for pair in result["pairs"] if (pair["first"], pair["second"]) == ("good", "poor"))
    auc, accuracy = oriented_tests(result, "poor", "good")
    assert auc["difference"] == -stored["auc"]["difference"]
    assert (auc["low"], auc["high"]) == (-stored["auc"]["high"], -stored["auc"]["low"])
    assert accuracy["p_corrected"] == stored["accuracy"]["p_corrected"]
    assert oriented_tests(result, "good", "poor") == (stored["auc"], stored["accuracy"])
    assert oriented_tests(result, "good", "hub") is None


def test_a_rung_is_set_beside_its_control(result):
    rows = control_rows(result)
    assert [(row["name"], row["control"], row["auc"]["kind"]) for row in rows] == [
        ("as-good", "good", "not told apart"),
        ("poor", "good", "worse"),
    ]
    assert rows[1]["auc"]["difference"].startswith("-0.")
    assert rows[1]["auc"]["verdict"] == "worse, p < 0.001"


def test_settings_are_flat():
    changes = {"network": "mlp", "augmentation": {"enabled": False}, "dense_layers": [8, 4], "rate": 5e-4}
    assert settings_text(changes) == (
        "network mlp, augmentation.enabled false, dense_layers 8 / 4, rate 0.0005"
    )
    assert settings_text({"unfreeze": [{"epoch": 0, "blocks": 4}]}) == "unfreeze epoch 0 blocks 4"
    assert settings_text({}) == "nothing"


def test_hashes_of_weights_are_short():
    assert started_from({"initial_weights": f"folder (sha256 {'0123456789ab' + 'c' * 52})"}) == (
        "folder (sha256 0123456789ab…)"
    )
    assert started_from({"initial_weights": "random"}) == "random"
    assert started_from({}) == "not run"


def test_the_csv_has_a_row_a_rung_and_every_figure_with_its_interval(result):
    rows = list(csv.DictReader(io.StringIO(ladder_csv(result))))
    assert [row["name"] for row in rows] == ["good", "as-good", "poor", "hub"]
    for row, source in zip(rows[:3], result["rungs"], strict=False):
        for key in FIGURES:
            estimate = source["estimates"].get(key)
            assert row[key] == (str(estimate["value"]) if estimate else "")
            assert row[f"{key}_low"] == (str(estimate["low"]) if estimate else "")
    assert rows[0]["folds"] == "1 2"
    assert (rows[3]["accuracy"], rows[3]["failure"]) == ("", "cannot be <downloaded>")


def test_the_markdown_names_every_rung_figure_and_cut(result):
    text = ladder_markdown(result)
    assert text.startswith("# The ladder\n")
    assert "folds 1, 2 of 5" in text
    assert result["cut"][0] in text
    for row in result["rungs"]:
        assert f"| {row['name']} | {row['says']} |" in text
    good = result["rungs"][0]["estimates"]["accuracy"]
    assert f"{good['value']:.4f} ({good['low']:.4f} to {good['high']:.4f})" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "| good | 1,234,567 | 65 | 1.25 | 2.5 |" in text
