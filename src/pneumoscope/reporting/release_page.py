"""Release check for readers: the rows of its table, its verdict in words, ``release.html`` and Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json, write_text
from pneumoscope.core.format import DASH, estimate, markdown_table, percent, percent_of
from pneumoscope.evaluation.release import SCHEMA_VERSION
from pneumoscope.inference.bundle import Bundle
from pneumoscope.reporting.pages import render

COLUMNS = (
    "view", "images", "AUC", "AUC, plain", "difference", "specificity", "specificity, plain", "accuracy",
    "accuracy, plain", "vote",
)  # fmt: skip
_FIGURES = ("roc_auc", "specificity", "accuracy")


def read_release(file: Path, bundle: Bundle) -> dict[str, Any]:
    """The content of ``release.json``, which must be about ``bundle``.

    Raises:
        InputError: it is not there, not such a file, or about another bundle.
    """
    expected = "release.json of 'pneumoscope release-check'"
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=file, expected=expected) from error
    if not isinstance(content, dict) or not {"verdict", "views", "bundle"} <= set(content):
        raise InputError("not a release check", where=file, expected=expected)
    if content.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"schema version {content.get('schema_version')!r}", where=file, expected=str(SCHEMA_VERSION)
        )
    # A site's version of a bundle has its number behind: the network is the same.
    if content["bundle"].partition("+")[0] != bundle.id.partition("+")[0]:
        raise InputError(
            f"the release check of another bundle ({content['bundle']})", where=file, expected=bundle.id
        )
    return content


def view_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of ``release.csv``: one a view, each figure of both recipes with its limits."""
    rows = []
    for view in document["views"]:
        row: dict[str, Any] = {key: view[key] for key in ("key", "kind", "films", "patients", "ill")}
        items = {f"{recipe}_{name}": view[recipe].get(name) for recipe in ("candidate", "plain")
                 for name in _FIGURES}  # fmt: skip
        for name, item in (items | {"difference": view["difference"]}).items():
            for end in ("value", "low", "high"):
                row[name if end == "value" else f"{name}_{end}"] = None if item is None else item[end]
        rows.append({**row, "vote": view["vote"], "too_few": view["too_few"]})
    return rows


def table_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """The table for readers, cells as in :data:`COLUMNS`."""
    return [_row(view) for view in document["views"]]


def _row(view: Mapping[str, Any]) -> list[str]:
    candidate, plain = view["candidate"], view["plain"]
    return [
        view["title"],
        f"{view['films']:,}",
        estimate(candidate.get("roc_auc"), ".3f"),
        estimate(plain.get("roc_auc"), ".3f"),
        estimate(view["difference"], "+.3f"),
        percent_of(candidate.get("specificity")),
        percent_of(plain.get("specificity")),
        percent_of(candidate.get("accuracy")),
        percent_of(plain.get("accuracy")),
        view["vote"] + (", too few images to tell" if view["too_few"] else ""),
    ]


def verdict_text(document: Mapping[str, Any]) -> str:
    """The verdict and its reasons, as sentences."""
    titles = {view["key"]: view["title"] for view in document["views"]}
    differences = {view["key"]: view["difference"] for view in document["views"]}
    parts = [f"{document['verdict'].capitalize()}: {_reason(document)}."]
    parts += [f"{titles[key]}: AUC {estimate(differences[key], '+.3f')}." for key in document["worse"]]
    for key, what in (("too_few", "Too few images to tell"), ("not_measured", "Not measured")):
        if document[key]:
            parts.append(f"{what}: {', '.join(titles[one] for one in document[key])}.")
    if document["shortened"]:
        parts.append(
            f"A shortened check, without {', '.join(document['shortened'])}: no ground for a release."
        )
    return " ".join(parts)


def _reason(document: Mapping[str, Any]) -> str:
    if not document["voted"]:
        return "no view could be measured"
    where = f"on {len(document['worse']) or 'none'} of {_voted(document)}"
    return f"{where} worse than the plain recipe beyond the interval"


def _voted(document: Mapping[str, Any]) -> str:
    return f"{document['voted']} view{'' if document['voted'] == 1 else 's'}"


def notes(document: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know, as sentences."""
    sensitivity = document["config"]["sensitivity"]
    found = [
        "Both recipes were trained on the same images, from the same weights, with the same epochs.",
        f"Specificity at a sensitivity of {percent(sensitivity, 0)} on the same images; accuracy at the "
        "probability 0.5; in brackets 95 % intervals, paired for the difference (bootstrap over patients).",
        "The ordinary fold has no vote.",
    ]
    found.append(f"Of {len(document['changes'])} changes of the image (stress) the worst one votes.")
    twins = next((view for view in document["views"] if view["kind"] == "twins"), None)
    if twins and twins["changed"]:
        found.append(
            f"At another size {percent_of(twins['changed']['candidate'])} of the decisions change, with the "
            f"plain recipe {percent_of(twins['changed']['plain'])}."
        )
    return found


def release_markdown(document: Mapping[str, Any]) -> str:
    """Verdict, table and notes as Markdown, without a heading."""
    return "\n\n".join(
        (
            f"**{verdict_text(document).replace(': ', ':** ', 1)}",
            markdown_table(COLUMNS, table_rows(document)),
            " ".join(notes(document)),
            f"{document['dataset']}, {document['when'][:10]}.",
        )
    )


def write_release_page(document: Mapping[str, Any], directory: Path) -> Path:
    """Write ``release.html`` and ``release.md`` into ``directory``; return the page."""
    page = directory / "release.html"
    changes = [(row[0], *row[2:5]) for row in map(_row, document["changes"])]
    text = render(
        "release.html",
        document=document,
        verdict=verdict_text(document),
        columns=COLUMNS,
        rows=table_rows(document),
        notes=notes(document),
        changes=changes,
        recipes=recipe_rows(document),
    )
    write_text(page, text)
    write_text(directory / "release.md", release_markdown(document) + "\n")
    return page


def recipe_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The keys in which the recipes differ, with both values."""
    candidate, plain = (_flat(document["recipes"][name]) for name in ("candidate", "plain"))
    return [
        (key, str(candidate.get(key, DASH)), str(plain.get(key, DASH)))
        for key in sorted({*candidate, *plain} - {"name"})
        if candidate.get(key) != plain.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
