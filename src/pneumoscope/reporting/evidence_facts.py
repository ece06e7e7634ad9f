"""What a bundle, its run and further evidence say, as sentences that checklists are filled with.

In: the content of ``bundle.json``, and JSON documents of other commands. Out: sentences by name; a name that
nothing is known of is absent, which leaves the checklist's item open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pneumoscope import __version__
from pneumoscope.core.records import Task

_TASKS = {
    Task.BINARY: "Pneumonia or not on one frontal chest film, as a probability.",
    Task.THREE_CLASS: "Pneumonia or not, and whether bacterial or viral, on one frontal chest film, as "
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
        internal: an evaluation of films that were not trained on (``cross-validation.json``), or None.
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
        "calibration": f"Calibration: {document['calibration']['method']}, chosen on validation films.",
        "explanation": f"Heat maps by {document['explanation']['method']}, on the film's own grid.",
        "gate": _gate(document["gate"]),
        "points": _points(document),
        "performance": _figures(document["validation"]),
        "metrics": ", ".join(document["validation"]),
        "history": _history(document.get("history", [])),
        "population": _population(document.get("population", {})),
        "internal_short": "cross-validation by patient" if internal else "validation films",
        "external_short": "no external film was scored.",
        "ensemble": "None: one network answers.",
    }
    if "counts" in training:
        facts["counts"] = ", ".join(f"{count:,} {part} films" for part, count in training["counts"].items())
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
        facts["abstention"] = "Every film that the gate lets through is answered."
    if internal:
        facts["internal"] = f"{internal['protocol']}: {_figures(internal['estimates'])}"
    return facts | _further(evidence)


def _preprocessing(values: Mapping[str, Any]) -> str:
    exposure = "as stored"
    if values["exposure"] == "percentile":
        low, high = values["percentiles"]
        exposure = f"with the percentiles {low:g} and {high:g} of its grey levels at black and white"
    return f"The film is brought to {values['size']} x {values['size']} pixels ({values['fit']}), {exposure}."


def _gate(gate: Mapping[str, Any]) -> str:
    looks = " and of what it looks like" if "appearance" in gate else ""
    return (
        "A gate refuses or warns of films by rules on the source and by the distance of the network's "
        f"features{looks}; of usual films at most {100 * gate['false_refusal_rate']:g} % are beyond each "
        "bound."
    )


def _points(document: Mapping[str, Any]) -> str:
    return " ".join(
        f"{point['name']}: positive from {point['threshold']:.3f}, sensitivity {point['sensitivity']:.3f}, "
        f"specificity {point['specificity']:.3f} on {point['n']:,} validation films."
        for point in document["operating_points"]
        if point.get("sensitivity") is not None and point.get("n") is not None
    )


def _figures(estimates: Mapping[str, Any]) -> str:
    shown = [name for name in _SHOWN if name in estimates] or list(estimates)
    return "; ".join(f"{name} {_estimate(estimates[name])}" for name in shown) + "."


def _estimate(values: Mapping[str, Any]) -> str:
    return f"{values['value']:.4f} ({values['low']:.4f} to {values['high']:.4f}, n {values['n']:,})"


def _history(history: Sequence[Mapping[str, Any]]) -> str:
    if not history:
        return "The bundle has not been changed since its training."
    return " ".join(
        f"{entry['date'][:10]}: {entry['what']} on {entry['films']:,} films of "
        f"{entry['dataset']['name']} for a prevalence of {entry['prevalence']:g}, verdict {entry['verdict']}."
        for entry in history
    )


def _population(values: Mapping[str, Any]) -> str:
    if "age_years" not in values:
        return "The bundle does not say whom its films show."
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
        "validation films.",
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
                f"Stress test on {content['films']:,} films: {judged - len(failed)} of {judged} checks passed"
                + (f", failed: {', '.join(failed)}." if failed else ".")
            )
        elif "new_bundle" in content:
            external.append(
                f"{content['verdict']} on {content['films']:,} films of {content['dataset']}: "
                f"{_figures(_estimates(content['figures']))}"
            )
        elif "verdict" in content:
            robustness.append(
                f"Audit of shortcuts on {content.get('films', 0):,} films: {content['verdict']}."
            )
    found = {"robustness": " ".join(robustness), "external": " ".join(external)}
    if external:
        found["external_short"] = f"commissioned on {len(external)} external data set(s)."
    return {name: text for name, text in found.items() if text}


def _estimates(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if isinstance(value, dict)}
