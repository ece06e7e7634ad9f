"""``pneumoscope quantise``: a bundle in 8-bit integers, calibrated anew; or those of a cross-validation.

In: a bundle or the folder of a cross-validation, and the films that it learnt from. Out: the bundle in 8
bits, with its validation figures beside those of the original; or one bundle a fold, scored out of fold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pneumoscope.cli.terminal import console, progress_bar
from pneumoscope.core.errors import InputError, MissingExtraError

SHOWN = ("roc_auc", "accuracy", "sensitivity", "specificity", "ece", "three_class_accuracy")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="quantise")(quantise)


def quantise(
    source: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="A bundle's directory or name, or a cross-validation's folder."
        ),
    ],
    dataset: Annotated[Path, typer.Argument(help="The data set that it was trained on.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the new bundle, or of the folds.")
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="Run that trained the bundle; default: the one that the bundle lies in."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the data set that it was trained with, instead of --run.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new bundle; default: the old one's and -int8.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Write the 8-bit twin of a bundle: a third of the size, twice as fast, thresholds chosen again."""
    if run is not None and split is not None:
        raise InputError("both --run and --split given", expected="one of them")
    _require_onnx()
    from pneumoscope.data.importers import open_or_import
    from pneumoscope.learning.quantised_folds import QuantiseConfig, quantise_folds

    with progress_bar("reading films") as progress:
        films = open_or_import(dataset, progress=progress)
    if _is_cross_validation(Path(source)):
        if run is not None or split is not None:
            raise InputError("a cross-validation has its own folds", remedy="leave --run and --split out")
        with progress_bar("quantising", "folds") as progress:
            comparison = quantise_folds(Path(source), films, output, QuantiseConfig(name=name), progress)
    else:
        comparison = _quantise_one(source, films, output, {"run": run, "split": split, "name": name})
    if as_json:
        print(json.dumps(comparison, indent=2))
    else:
        _print(comparison)
        console().print(f"written: {output}")


def _require_onnx() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "torch") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"quantising needs {', '.join(missing)}",
            remedy="pip install 'pneumoscope[train]' -c constraints.txt",
        )


def _is_cross_validation(folder: Path) -> bool:
    from pneumoscope.core.files import read_json

    file = folder / "run.json"
    return file.is_file() and read_json(file)["command"] == "cross-validate"


def _quantise_one(source: str, films: Any, output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.learning.quantised_bundle import own_films
    from pneumoscope.learning.quantised_bundle import quantise as quantise_bundle

    bundle = load_bundle(source)
    own = own_films(bundle, films, run=options["run"], split=options["split"])
    with progress_bar("quantising") as progress:
        twin = quantise_bundle(bundle, own, output, options["name"], progress)
    kinds = {"float32": bundle, "int8": twin}
    return {
        "films": len(own.validation),
        "bundles": {kind: one.id for kind, one in kinds.items()},
        "estimates": {kind: dict(one.document["validation"]) for kind, one in kinds.items()},
    }


def _print(comparison: Mapping[str, Any]) -> None:
    from rich.table import Table

    from pneumoscope.evaluation.metrics import TITLES

    estimates = comparison["estimates"]
    where = "validation films" if "bundles" in comparison else "films out of fold"
    table = Table("figure", "float32", "int8", "difference", title=f"{comparison['films']} {where}")
    for figure in SHOWN:
        if all(figure in found for found in estimates.values()):
            before, after = (estimates[kind][figure]["value"] for kind in ("float32", "int8"))
            table.add_row(TITLES[figure], f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    console().print(table)
    if "changed_decisions" in comparison:
        changed = comparison["changed_decisions"]
        console().print(f"{changed['value']:.2%} of the decisions at probability 0.5 changed")
