"""The evidence pack of a bundle: card, reporting checklists, hashes and bill of materials.

``card.json`` is the truth; the Markdown and the page are views of it, and the PDF is the page on paper.

In: a bundle, and what other commands found. Out: one folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json, sha256_file, write_json, write_text
from pneumoscope.inference.bundle import ARRAYS, DOCUMENT, MODEL, Bundle
from pneumoscope.reporting.bill_of_materials import bill_of_materials
from pneumoscope.reporting.bundle_card import bundle_card
from pneumoscope.reporting.evidence_facts import evidence_facts
from pneumoscope.reporting.pages import render
from pneumoscope.reporting.pdf import write_pdf

CHECKLISTS = ("claim-2024", "tripod-ai")


def evidence(
    bundle: Bundle,
    address: str,
    internal: Mapping[str, Any] | None = None,
    attached: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The content of ``card.json``.

    Args:
        bundle: whose evidence.
        address: what ``load_bundle`` takes to open it.
        internal: ``cross-validation.json`` of the recipe, or another evaluation of unseen films.
        attached: further JSON documents by file name.

    Returns:
        ``id``, ``card`` (Markdown), ``operating_points``, ``validation``, ``intended_use``, ``limitations``,
        ``hashes``, ``checklists`` and ``attached``.
    """
    document, attached = bundle.document, attached or {}
    hashes = {name: sha256_file(bundle.directory / name) for name in (MODEL, DOCUMENT, ARRAYS)}
    facts = evidence_facts(document, hashes[MODEL], internal, tuple(attached.values()))
    training = document["training"]
    return {
        "schema_version": 1,
        "id": document["id"],
        "card": bundle_card(document, address),
        "operating_points": document["operating_points"],
        "validation": document["validation"],
        "internal": None if internal is None else internal["estimates"],
        "intended_use": document["intended_use"],
        "limitations": document["limitations"],
        "hashes": {**hashes, "data set (manifest)": training["dataset_hash"]},
        "films": {"training": training["films"], "validation": training.get("validation_films", [])},
        "checklists": [fill(load(name), facts) for name in CHECKLISTS],
        "attached": sorted(attached),
    }


def load(name: str) -> dict[str, Any]:
    """A checklist of the package: ``name``, ``source`` and ``items``."""
    text = resources.files("pneumoscope.reporting").joinpath("checklists", f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


def fill(checklist: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, Any]:
    """A checklist with each item answered, or open with what a person has to write."""
    items = []
    for item in checklist["items"]:
        try:
            answer = item["answer"].format_map(facts)
        except KeyError:  # there is no answer, or one of its facts is not known
            answer = None
        said = item.get("open") or "The bundle does not know it; write it from your study."
        items.append(
            {
                **{key: item[key] for key in ("number", "section", "text")},
                "status": "open" if answer is None else "answered",
                "answer": said if answer is None else answer,
            }
        )
    answered = sum(item["status"] == "answered" for item in items)
    return {"name": checklist["name"], "source": checklist["source"], "answered": answered, "items": items}


def evidence_markdown(content: Mapping[str, Any]) -> str:
    """The card, the checklists and the hashes as Markdown."""
    blocks = [content["card"].rstrip()]
    for checklist in content["checklists"]:
        rows = [_item_row(item) for item in checklist["items"]]
        blocks.append(f"## {checklist['name']}")
        blocks.append(
            f"{checklist['answered']} of {len(checklist['items'])} items are answered from the bundle; the "
            f"items are paraphrased. {checklist['source']}."
        )
        blocks.append("\n".join(["| item | section | asks for | answer |", "|---|---|---|---|", *rows]))
    hashes = [f"| {name} | `{digest}` |" for name, digest in content["hashes"].items()]
    blocks += ["## Hashes (SHA-256)", "\n".join(["| what | hash |", "|---|---|", *hashes])]
    return "\n\n".join(blocks) + "\n"


def _item_row(item: Mapping[str, str]) -> str:
    answer = ("**open:** " if item["status"] == "open" else "") + item["answer"].replace("|", "/")
    return f"| {item['number']} | {item['section']} | {item['text']} | {answer} |"


def write_evidence(
    content: Mapping[str, Any], bundle: Bundle, directory: Path, *, pdf: bool = False
) -> list[Path]:
    """Write the pack into ``directory`` and return its files.

    Args:
        content: of :func:`evidence`.
        bundle: for the bill of materials.
        directory: made when it is missing.
        pdf: also write ``card.pdf``.

    Raises:
        MissingExtraError: a PDF was asked for and WeasyPrint or Pango is missing.
    """
    page = render("evidence.html", content=content)
    files = [directory / name for name in ("card.json", "card.md", "card.html", "sbom.cdx.json")]
    write_json(files[0], content)
    write_text(files[1], evidence_markdown(content))
    write_text(files[2], page)
    write_text(files[3], bill_of_materials(bundle.document, content["hashes"][MODEL]))
    if pdf:
        files.append(write_pdf(page, directory / "card.pdf"))
    return files


def attach(files: Sequence[Path]) -> dict[str, Any]:
    """JSON documents by file name.

    Raises:
        InputError: a file is no JSON object.
    """
    found = {}
    for file in files:
        try:
            content = read_json(file)
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot be read: {error}", where=file, expected="JSON of another command"
            ) from error
        if not isinstance(content, dict):
            raise InputError("not a JSON object", where=file, expected="JSON of another command")
        found[file.name] = content
    return found
