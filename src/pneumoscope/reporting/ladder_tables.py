"""The results of a ladder in rows and words: CSV for machines, Markdown for a repository, sentences for both.

In: the content of ``ladder.json``. Out: text. No figure is computed here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pneumoscope.evaluation.metrics import TITLES

FIGURES = (
    "roc_auc",
    "accuracy",
    "precision",
    "sensitivity",
    "specificity",
    "f1",
    "false_negative_rate",
    "ece",
    "three_class_accuracy",
)
"""The figures of a rung, in the order of the table."""

_TESTS = ("auc", "accuracy")
_MEGABYTE = 1e6
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

Result = Mapping[str, Any]


def compared_rungs(result: Result) -> list[Mapping[str, Any]]:
    """The rungs that have figures, in the ladder's order."""
    return [rung for rung in result["rungs"] if rung["estimates"]]


def places(result: Result, key: str = "roc_auc") -> dict[str, str]:
    """Place of each compared rung in the ranking by ``key``; ``2=`` where it shares it."""
    return {
        name: f"{number}{'=' if len(place) > 1 else ''}"
        for number, place in enumerate(result["ranking"][key], start=1)
        for name in place
    }


def ranking_sentences(result: Result, key: str = "roc_auc") -> list[str]:
    """One sentence for each place of the ranking by ``key``, which says who is tied there."""
    values = {rung["name"]: rung["estimates"][key]["value"] for rung in compared_rungs(result)}
    named = {name: f"{name} ({value:.4f})" for name, value in values.items()}
    sentences = []
    for number, (best, *tied) in enumerate(result["ranking"][key], start=1):
        text = f"Place {number}: {named[best]}"
        if tied:
            text += f"; tied with it, as the test cannot tell them apart: {', '.join(named[n] for n in tied)}"
        sentences.append(text + ".")
    return sentences


def oriented_tests(
    result: Result, first: str, second: str
) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The AUC's and the accuracy's test of ``first`` minus ``second``, whichever way they are stored."""
    for pair in result["pairs"]:
        if (pair["first"], pair["second"]) == (first, second):
            return pair["auc"], pair["accuracy"]
        if (pair["first"], pair["second"]) == (second, first):
            return _turned(pair["auc"]), _turned(pair["accuracy"])
    return None


def control_rows(result: Result) -> list[dict[str, Any]]:
    """Each rung beside the one that it differs from in one thing: name, control, says, and a cell a test.

    A cell holds the difference with its interval, the corrected p value and ``better``, ``worse`` or ``not
    told apart``.
    """
    says = {rung["name"]: rung["says"] for rung in result["rungs"]}
    return [
        {
            "name": pair["first"],
            "control": pair["second"],
            "says": says[pair["first"]],
            **{name: _cell(pair[name], result) for name in _TESTS},
        }
        for pair in result["controls"]
    ]


def settings_text(changes: Mapping[str, Any]) -> str:
    """What a rung sets beyond the base, as ``key value, key value``; a key of a table has a dot."""
    return ", ".join(f"{key} {_plain(value)}" for key, value in _flat(changes)) or "nothing"


def started_from(rung: Mapping[str, Any]) -> str:
    """The weights that a rung started from, a hash cut to twelve digits; ``not run`` without any."""
    return _HASH.sub(r"\1…", rung.get("initial_weights", "not run"))


def ladder_csv(result: Result) -> str:
    """One row a rung, also for those without figures, whose cells are empty."""
    by_auc, by_accuracy = places(result), places(result, "accuracy")
    rows = []
    for rung in result["rungs"]:
        row = {key: rung[key] for key in ("name", "says", "group", "network", "task")}
        row["settings"] = settings_text(rung["changes"])
        row["folds"] = " ".join(str(number + 1) for number in rung["folds"])
        row["place_by_auc"] = by_auc.get(rung["name"], "")
        row["place_by_accuracy"] = by_accuracy.get(rung["name"], "")
        for key in FIGURES:
            estimate = (rung["estimates"] or {}).get(key, {})
            row |= {f"{key}{end}": estimate.get(part, "") for end, part in _COLUMNS}
        row |= {key: rung.get(key, "") for key in _COSTS}
        row["failure"] = rung["failure"] or ""
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_COLUMNS = (("", "value"), ("_low", "low"), ("_high", "high"), ("_n", "n"))
_COSTS = ("parameters", "training_seconds", "milliseconds_per_film", "bundle_bytes", "initial_weights")


def ladder_markdown(result: Result) -> str:
    """The ladder as a page of a repository: protocol, ranking, table, comparisons, costs and what was cut."""
    protocol = result["protocol"]
    folds = ", ".join(map(str, protocol["shared_folds"]))
    parts = [
        "# The ladder",
        f"{len(compared_rungs(result))} networks under one protocol on {protocol['films']:,} films of "
        f"{protocol['patients']:,} patients: fold{'s' if len(protocol['shared_folds']) > 1 else ''} {folds} "
        f"of {protocol['folds']}, split by patient, the same for all. Every film is scored by a network that "
        f"never saw its patient, at the operating point \u201c{protocol['operating_point']}\u201d that was "
        "chosen on other films. 95 % intervals in brackets.",
        "## What was cut",
        _bullets(result["cut"] or ["Nothing."]),
        "## Ranking by ROC AUC",
        _bullets(ranking_sentences(result)),
        "## Ranking by accuracy",
        _bullets(ranking_sentences(result, "accuracy")),
        "Two rungs are told apart when the paired test (DeLong for AUC, McNemar for accuracy), corrected "
        f"for all pairs after Holm, gives p < {protocol['significance']}.",
        "## Figures",
        _table(["rung", "place", *(TITLES[key] for key in FIGURES)], _figure_rows(result)),
        "## One thing changed",
        "Each rung minus the rung that it differs from in one thing; p values are corrected for these "
        "comparisons, which were planned beforehand.",
        _table(["rung", "against", "AUC", "", "accuracy", ""], _control_cells(result)),
        "## What each rung is",
        _table(["rung", "what it is", "settings beyond the base", "started from"], _setting_rows(result)),
        f"The base: {settings_text(result['base'])}.",
        "## Costs",
        _table(["rung", "parameters", "training, s a fold", "ms a film", "bundle, MB"], _cost_rows(result)),
        "Milliseconds are those of the network's pass over one film in ONNX Runtime on "
        f"{protocol['speed_threads']} thread of the CPU; training times are those of the machine that "
        "trained, busy or not.",
    ]
    return "\n\n".join(parts) + "\n"


def _figure_rows(result: Result) -> Iterator[list[str]]:
    place = places(result)
    for rung in compared_rungs(result):
        cells = [_estimate(rung["estimates"].get(key)) for key in FIGURES]
        yield [rung["name"], place[rung["name"]], *cells]


def _control_cells(result: Result) -> Iterator[list[str]]:
    for row in control_rows(result):
        cells = [text for key in _TESTS for text in (row[key]["difference"], row[key]["verdict"])]
        yield [row["name"], row["control"], *cells]


def _setting_rows(result: Result) -> Iterator[list[str]]:
    for rung in result["rungs"]:
        yield [rung["name"], rung["says"], settings_text(rung["changes"]), started_from(rung)]


def _cost_rows(result: Result) -> Iterator[list[str]]:
    for rung in compared_rungs(result):
        yield [
            rung["name"],
            f"{rung['parameters']:,}",
            f"{rung['training_seconds']:.0f}",
            f"{rung['milliseconds_per_film']:.2f}",
            f"{rung['bundle_bytes'] / _MEGABYTE:.1f}",
        ]


def _cell(test: Mapping[str, Any], result: Result) -> dict[str, Any]:
    verdict = "not told apart"
    if test["p_corrected"] < result["protocol"]["significance"]:
        verdict = "better" if test["difference"] > 0 else "worse"
    p = "p < 0.001" if test["p_corrected"] < 0.001 else f"p = {test['p_corrected']:.3f}"
    text = f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})"
    return {"difference": text, "verdict": f"{verdict}, {p}", "kind": verdict}


def _turned(test: Mapping[str, Any]) -> dict[str, Any]:
    """The test of the second minus the first."""
    return {**test, "difference": -test["difference"], "low": -test["high"], "high": -test["low"]}


def _estimate(item: Mapping[str, Any] | None) -> str:
    return "\u2013" if item is None else f"{item['value']:.4f} ({item['low']:.4f} to {item['high']:.4f})"


def _flat(changes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in changes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " / ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_plain(one)}" for key, one in value.items())
    return (
        f"{value:g}"
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(columns: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
