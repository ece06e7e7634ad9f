"""The audit in sentences: what a reader must know before trusting a result on this data set.

In: the audit's figures. Out: findings, worst first, each with a severity: ``danger`` (results would be
wrong), ``warning`` (results may flatter) or ``note``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHORTCUT_AUC = 0.65
"""A property warns from this AUC on, when the interval also lies above chance. Chosen: well above what noise
gives at some hundreds of films, far below what a network reaches."""

_RARE = 0.1
_SEVERITIES = ("danger", "warning", "note")
_QUESTIONS = {"pneumonia": "pneumonia from normal", "etiology": "bacterial from viral"}
_KINDS = {
    "file": "File facts alone (size, bytes, age, ...)",
    "picture": "Exposure, frame and sharpness alone (in part disease itself)",
}


def list_findings(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    """All findings of an audit, worst first; each ``{"severity", "kind", "text"}``."""
    findings = [*_leaks(audit), *_duplicates(audit), *_shortcuts(audit), *_balance(audit), *_problems(audit)]
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding["severity"]))


def is_shortcut(score: Mapping[str, float]) -> bool:
    """Whether an AUC with its interval is a warning."""
    return score["value"] >= SHORTCUT_AUC and score["low"] > 0.5


def _finding(severity: str, kind: str, text: str) -> dict[str, str]:
    return {"severity": severity, "kind": kind, "text": text}


def _leaks(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    patients = audit["patients"]
    crossing, mixed = patients["in_more_than_one_part"], patients["with_more_than_one_label"]
    findings = []
    if crossing:
        films = sum(sum(item["parts"].values()) for item in crossing)
        findings.append(
            _finding(
                "danger",
                "leak",
                f"{len(crossing):,} of {patients['n']:,} patients ({films:,} films) are in more than one "
                f"part of {audit['parts']}: a score on one part would be helped by knowing the patient.",
            )
        )
    elif len(audit["balance"]) > 1:
        findings.append(_finding("note", "leak", f"No patient is in more than one part of {audit['parts']}."))
    if mixed:
        findings.append(
            _finding(
                "note",
                "labels",
                f"{len(mixed):,} patients have films with different labels (an illness has a beginning and "
                "an end, or a label is wrong).",
            )
        )
    return findings


def _duplicates(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    duplicates = audit["duplicates"]
    findings = []
    for severity, key, text in (
        ("danger", "across_parts", "lie in more than one part: test films that were trained on"),
        ("danger", "across_labels", "carry different labels for the same picture: at least one is wrong"),
        (
            "warning",
            "across_patients",
            "carry different patient ids: splitting by patient alone would part them",
        ),
    ):
        if duplicates[key]:
            findings.append(
                _finding(severity, "duplicate", f"{_groups(duplicates[key])} of duplicate films {text}.")
            )
    for kind, words in (("exact", "identical"), ("near", "nearly identical")):
        if duplicates[kind]["groups"]:
            films, groups = duplicates[kind]["films"], _groups(duplicates[kind]["groups"])
            text = f"{films:,} films in {groups} are {words}; a split keeps each group together."
            findings.append(_finding("note", "duplicate", text))
    return findings


def _groups(count: int) -> str:
    return f"{count:,} group{'s' if count > 1 else ''}"


def _shortcuts(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    findings = []
    for kind, joint in audit["shortcuts"].items():
        for question, score in joint["auc"].items():
            if is_shortcut(score):
                alone = [
                    f"{p['title'].lower()} {p['auc'][question]['value']:.2f}"
                    for p in sorted(
                        audit["properties"], key=lambda p: -p["auc"].get(question, {"value": 0})["value"]
                    )
                    if p["kind"] == kind and question in p["auc"] and is_shortcut(p["auc"][question])
                ]
                text = (
                    f"{_KINDS[kind]} tell {_QUESTIONS[question]} with an AUC of {score['value']:.2f} "
                    f"({score['low']:.2f} to {score['high']:.2f}, {score['n']:,} films; 0.50 is chance)"
                )
                text += f"; on their own: {', '.join(alone)}." if alone else "."
                findings.append(_finding("warning", "shortcut", text))
    return findings


def _balance(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    classes, films = audit["dataset"]["classes"], audit["dataset"]["films"]
    if not films:
        return []
    if "normal" not in classes or len(classes) == 1:
        return [
            _finding("danger", "balance", f"Only one side of the question is here: {', '.join(classes)}.")
        ]
    sick = 1 - classes["normal"] / films
    majority, share = ("pneumonia", sick) if sick >= 0.5 else ("normal", 1 - sick)
    findings = []
    if share > 0.6:
        findings.append(
            _finding(
                "note",
                "balance",
                f"{share:.0%} of the films are {majority}: always answering '{majority}' would be right that "
                "often, so accuracy alone says little.",
            )
        )
    findings += [
        _finding("warning", "balance", f"Only {count:,} films ({count / films:.1%}) are {name}.")
        for name, count in classes.items()
        if count < _RARE * films
    ]
    return findings


def _problems(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    count = len(audit["problems"])
    if not count:
        return []
    return [
        _finding("warning", "problem", f"{count:,} files could not be used; each is listed with its reason.")
    ]
