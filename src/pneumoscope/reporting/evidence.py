"""Evidence pack of a bundle: card, CLAIM and TRIPOD+AI checklists, hashes, CycloneDX bill of materials.

``card.json`` is the truth; the Markdown, the page and the PDF are views of it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from pneumoscope import __version__
from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json, sha256_file, write_json, write_text
from pneumoscope.core.format import estimate
from pneumoscope.core.records import Task
from pneumoscope.inference.bundle import ARRAYS, DOCUMENT, MODEL, Bundle
from pneumoscope.reporting.bundle_card import bundle_card
from pneumoscope.reporting.pages import render, write_pdf

CHECKLISTS = ("claim-2024", "tripod-ai")


def evidence(
    bundle: Bundle,
    address: str,
    internal: Mapping[str, Any] | None = None,
    attached: Mapping[str, Mapping[str, Any]] | None = None,
    release: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``card.json``.

    Args:
        bundle: whose evidence.
        address: what ``load_bundle`` takes to open it.
        internal: ``cross-validation.json`` of the recipe, or another evaluation of unseen images.
        attached: further JSON documents by file name.
        release: content of ``release.json``, which the card then shows.

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
        "card": bundle_card(document, address, release),
        "release": None if release is None else release["verdict"],
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


_TASKS = {
    Task.BINARY: "Pneumonia or not on one frontal chest radiograph, as a probability.",
    Task.THREE_CLASS: "Pneumonia or not, and whether bacterial or viral, on one frontal chest radiograph, as "
    "probabilities.",
}
_SHOWN = ("roc_auc", "sensitivity", "specificity", "three_class_accuracy", "bacterial_vs_viral_auc", "ece")


def evidence_facts(
    document: Mapping[str, Any],
    model_hash: str,
    internal: Mapping[str, Any] | None = None,
    evidence: Sequence[Mapping[str, Any]] = (),
) -> dict[str, str]:
    """Sentences by name.

    Args:
        document: content of ``bundle.json``.
        model_hash: SHA-256 of ``model.onnx``.
        internal: an evaluation of images that were not trained on (``cross-validation.json``), or None.
        evidence: JSON of ``stress``, ``audit-shortcuts`` and ``commission``, each by its keys.
    """
    training, network = document["training"], document["network"]
    config = training["config"]
    facts = {
        "version": __version__,
        "id": document["id"],
        "name": document["name"],
        "model_hash": model_hash,
        "task": _TASKS[Task(document["task"])],
        "network": f"{network['name']}, {network['parameters']:,} parameters, a convolutional network",
        "intended_use": document["intended_use"],
        "limitations": " ".join(document["limitations"]),
        "dataset": training["dataset_name"],
        "dataset_hash": training["dataset_hash"],
        "split": ", ".join(f"{key} {value}" for key, value in training["split"].items()),
        "patients": f"{len(training['patients']):,}",
        "preprocessing": _preprocessing(document["preprocessing"]),
        "calibration": f"Calibration: {document['calibration']['method']}, chosen on {_chosen_on(document)}.",
        "explanation": f"Heat maps by {document['explanation']['method']}, on the image's own grid.",
        "gate": _gate(document["gate"]),
        "points": _points(document),
        "performance": _figures(document["validation"]),
        "metrics": ", ".join(document["validation"]),
        "history": _history(document.get("history", [])),
        "population": _population(document.get("population", {})),
        "internal_short": "cross-validation by patient" if internal else _chosen_on(document),
        "external_short": "no external image was scored.",
        "ensemble": "None: one network answers.",
    }
    if "counts" in training:
        facts["counts"] = ", ".join(f"{count:,} {part} images" for part, count in training["counts"].items())
    if "initial_weights" in training:
        facts["initial_weights"] = training["initial_weights"]
    if training.get("versions"):
        facts["libraries"] = ", ".join(f"{name} {version}" for name, version in training["versions"].items())
    if config:
        facts |= _training(config)
    selection = document.get("selection", {})
    if "error_rate" in selection and "absent" not in selection:
        facts["abstention"] = (
            "No answer where a conformal set at an error rate of "
            f"{100 * selection['error_rate']:g} % does not single one out."
        )
    else:
        facts["abstention"] = "Every image that the gate lets through is answered."
    if internal:
        facts["internal"] = f"{internal['protocol']}: {_figures(internal['estimates'])}"
    return facts | _further(evidence)


def _preprocessing(values: Mapping[str, Any]) -> str:
    exposure = "as stored"
    if values["exposure"] == "percentile":
        low, high = values["percentiles"]
        exposure = f"with the percentiles {low:g} and {high:g} of its grey levels at black and white"
    return (
        f"{'The box of both lungs' if values['fit'] == 'lungs' else 'The image'} is brought to "
        f"{values['size']} x {values['size']} pixels ({values['fit']}), {exposure}."
    )


def _gate(gate: Mapping[str, Any]) -> str:
    looks = " and of what it looks like" if "appearance" in gate else ""
    return (
        "A gate refuses or warns of images by rules on the source and by the distance of the network's "
        f"features{looks}; of usual images at most {100 * gate['false_refusal_rate']:g} % are beyond each "
        "bound."
    )


def _chosen_on(document: Mapping[str, Any]) -> str:
    """What the images are that chose calibration and operating points."""
    return "images out of fold" if "validation_protocol" in document else "validation images"


def _points(document: Mapping[str, Any]) -> str:
    return " ".join(
        f"{point['name']}: positive from {point['threshold']:.3f}, sensitivity {point['sensitivity']:.3f}, "
        f"specificity {point['specificity']:.3f} on {point['n']:,} {_chosen_on(document)}."
        for point in document["operating_points"]
        if point.get("sensitivity") is not None and point.get("n") is not None
    )


def _figures(estimates: Mapping[str, Any]) -> str:
    shown = [name for name in _SHOWN if name in estimates] or list(estimates)
    return "; ".join(f"{name} {_estimate(estimates[name])}" for name in shown) + "."


def _estimate(values: Mapping[str, Any]) -> str:
    return f"{estimate(values).removesuffix(')')}, n {values['n']:,})"


def _history(history: Sequence[Mapping[str, Any]]) -> str:
    if not history:
        return "The bundle has not been changed since its training."
    return " ".join(
        f"{entry['date'][:10]}: {entry['what']} on {entry['films']:,} images of "
        f"{entry['dataset']['name']} for a prevalence of {entry['prevalence']:g}, verdict {entry['verdict']}"
        + (f", adapted: {entry['adaptation']}." if "adaptation" in entry else ".")
        for entry in history
    )


def _population(values: Mapping[str, Any]) -> str:
    if "age_years" not in values:
        return "The bundle does not say whom its images show."
    low, high = values["age_years"]
    return f"Trained on patients of {low:g} to {high:g} years."


def _training(config: Mapping[str, Any]) -> dict[str, str]:
    augmentation = config.get("augmentation", {})
    used = [key for key, value in augmentation.items() if value and key != "enabled"]
    return {
        "training": (
            f"{config['epochs']} epochs, {config['optimiser']}, learning rate {config['learning_rate']:g} "
            f"({config['schedule']}), batches of {config['batch_size']}, label smoothing "
            f"{config['label_smoothing']:g}; augmentation: {', '.join(used) or 'none'}; "
            f"seed {config['seed']}."
        ),
        "selection": f"Weights of the {config['checkpoint']} epoch; thresholds and calibration from "
        "validation images.",
        "imbalance": f"Handled by: {config['imbalance']}.",
    }


def _further(evidence: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What other commands found: ``robustness`` (stress, audit) and ``external`` (commissioning)."""
    robustness, external = [], []
    for content in evidence:
        if "stresses" in content:
            failed = [row["title"] for row in content["stresses"] if row["verdict"] == "fail"]
            judged = sum(row["verdict"] is not None for row in content["stresses"])
            robustness.append(
                f"Stress test on {content['films']:,} images: {judged - len(failed)} of {judged} checks "
                + (f"passed, failed: {', '.join(failed)}." if failed else "passed.")
            )
        elif "new_bundle" in content:
            external.append(
                f"{content['verdict']} on {content['films']:,} images of {content['dataset']}: "
                f"{_figures(_estimates(content['figures']))}"
            )
        elif "verdict" in content:
            robustness.append(
                f"Audit of shortcuts on {content.get('films', 0):,} images: {content['verdict']}."
            )
    found = {"robustness": " ".join(robustness), "external": " ".join(external)}
    if external:
        found["external_short"] = f"commissioned on {len(external)} external data set(s)."
    return {name: text for name, text in found.items() if text}


def _estimates(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if isinstance(value, dict)}


def bill_of_materials(document: Mapping[str, Any], model_hash: str) -> str:
    """The bill as JSON.

    Args:
        document: content of ``bundle.json``.
        model_hash: SHA-256 of ``model.onnx``.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    model = Component(
        name=document["name"],
        version=document["id"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model_hash)],
        description=document["intended_use"],
    )
    training = document["training"]
    data = Component(
        name=training["dataset_name"],
        type=ComponentType.DATA,
        bom_ref="training-data",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=training["dataset_hash"])],
        description="training images; the hash is of their manifest (path, hash, patient, label)",
    )
    bill = Bom(components=[data])
    bill.metadata.component = model
    libraries = []
    for distribution in installed_closure("pneumoscope"):
        name, version = distribution.metadata["Name"], distribution.version
        libraries.append(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                bom_ref=f"{name}@{version}",
                purl=PackageURL("pypi", None, name.lower(), version),
                description=_licence(distribution),
            )
        )
    bill.components.update(libraries)
    bill.register_dependency(model, [data, *libraries])
    return JsonV1Dot6(bill).output_as_string(indent=2) + "\n"


def installed_closure(name: str) -> list[metadata.Distribution]:
    """``name`` and everything that it needs, as far as it is installed, sorted by name.

    What only an extra needs is left out, as it does not take part in an answer.
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        wanted = waiting.pop()
        if wanted in found:
            continue
        try:
            found[wanted] = metadata.distribution(wanted)
        except metadata.PackageNotFoundError:  # for another platform or Python
            continue
        waiting.extend(_required(found[wanted]))
    return [found[key] for key in sorted(found)]


def _required(distribution: metadata.Distribution) -> Iterator[str]:
    from packaging.requirements import Requirement

    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name.lower().replace("_", "-")


def _licence(distribution: metadata.Distribution) -> str:
    """What the package says of its licence."""
    about = distribution.metadata.json
    stated = str(about.get("license_expression") or about.get("license") or "")
    classifiers = [c.split(" :: ")[-1] for c in about.get("classifier", ()) if c.startswith("License")]
    first = stated.splitlines()[0] if stated else ", ".join(classifiers)
    return f"pneumoscope {__version__} runs on it; licence: {first or 'not stated'}"
