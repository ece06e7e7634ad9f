"""``pneumoscope evaluate``: score a bundle on films that it has never seen.

In: a bundle, a data set, the part of it to score. Out: a folder with ``evaluation.json``,
``predictions.csv``, ``evaluation.html`` with its figures, and ``run.json``; a table on standard output. Exit
code 2 when a film or its patient was in the bundle's training data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.terminal import notes, progress_bar
from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json, write_json

if TYPE_CHECKING:
    from pneumoscope.core.records import OperatingPoint
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.evaluation.evaluate import EvaluationConfig
    from pneumoscope.evaluation.scoring import Films
    from pneumoscope.inference.bundle import Bundle


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="evaluate")(evaluate)


def evaluate(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory, or the name of a shipped one.")],
    dataset: Annotated[
        Path, typer.Argument(help="Data set directory, or a folder, CSV or npz to import first.")
    ],
    split: Annotated[
        str | None,
        typer.Option(help="A part of the split, or all. Default: test, or all if never split."),
    ] = None,
    split_name: Annotated[str, typer.Option(help="Which split of the data set.")] = "default",
    operating_point: Annotated[
        str | None, typer.Option(help="One of the bundle's operating points instead of its default.")
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(help="Share with pneumonia, for PPV, NPV and costs. Default: that of the films."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file: resamples, seed, costs.missed_pneumonia, costs.false_alarm."),
    ] = None,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Score leaked films too; marks the result contaminated.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results; default runs/<time>-evaluate-..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json, not a table.")] = False,
) -> None:
    """Score a bundle: every figure with its count and its 95 % interval."""
    from pneumoscope.cli.evaluate_output import print_evaluation
    from pneumoscope.core.config import load_config
    from pneumoscope.data.importers import open_or_import
    from pneumoscope.evaluation.evaluate import EvaluationConfig
    from pneumoscope.evaluation.scoring import check_leakage, choose_films, leakage_error
    from pneumoscope.inference.bundle import load_bundle

    settings = load_config(EvaluationConfig, config, {"costs.prevalence": prevalence})
    opened = load_bundle(bundle)
    point = opened.operating_point(operating_point)
    with progress_bar("reading films") as progress:
        source = open_or_import(dataset, progress=progress)
    films = choose_films(source, split, split_name)
    leaks = check_leakage(opened.document, films.samples)
    if leaks and not allow_leakage:
        raise leakage_error(leaks, len(films.samples))
    directory = _directory(output, source.name, films.part)
    document = _score(_Job(opened, point, source, films, settings, len(leaks)), directory)
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        print_evaluation(document, source.name)
    _remark(document, len(source.problems), len(leaks))
    notes().print(f"results: {directory / 'evaluation.html'}")


@dataclass(frozen=True, slots=True)
class _Job:
    """What is scored, at which operating point, how, and how many of the films the bundle has seen."""

    bundle: Bundle
    point: OperatingPoint
    dataset: Dataset
    films: Films
    config: EvaluationConfig
    leaks: int


def _directory(output: Path | None, dataset_name: str, part: str) -> Path:
    """The folder of the results; never the folder of another kind of run."""
    if output is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{stamp}-evaluate-{dataset_name}-{part}"
    file = output / "run.json"
    if file.is_file() and read_json(file).get("command") != "evaluate":
        raise InputError(
            "the folder holds another run",
            where=output,
            expected="a new folder, or one of an earlier evaluation",
        )
    return output


def _score(job: _Job, directory: Path) -> dict[str, Any]:
    """Predict, count the scoring, evaluate, write everything; return ``evaluation.json``'s content."""
    from pneumoscope.core.run_manifest import RunManifest
    from pneumoscope.data.cache import build_cache
    from pneumoscope.evaluation.evaluate import Scoring, evaluation_to_json
    from pneumoscope.evaluation.evaluate import evaluate as evaluate_table
    from pneumoscope.evaluation.predictions import write_predictions
    from pneumoscope.evaluation.scoring import count_scoring, predict_films
    from pneumoscope.reporting.evaluation_page import write_evaluation_page

    asked = {"part": job.films.part, "operating_point": job.point.name, **job.config.model_dump(mode="json")}
    manifest = RunManifest(directory, "evaluate", asked, {"bootstrap": job.config.seed})
    manifest.add_input("dataset", job.dataset.hash)
    manifest.add_input("bundle", job.bundle.id)
    with manifest.stage("decode"), progress_bar("decoding") as progress:
        cache = build_cache(job.dataset, job.bundle.preprocessing, progress=progress)
    with manifest.stage("predict"), progress_bar("predicting") as progress:
        table = predict_films(job.bundle, cache, job.films.samples, progress=progress)
        write_predictions(directory / "predictions.csv", table)
    with manifest.stage("evaluate"):
        ledger = job.dataset.directory / "scorings.json"
        scorings = count_scoring(ledger, job.bundle.id, table, job.films.protocol)
        scoring = Scoring(job.dataset.hash, job.films.protocol, contaminated=job.leaks > 0)
        evaluation = evaluate_table(
            table, job.point, samples=job.films.samples, scoring=scoring, config=job.config
        )
        document = evaluation_to_json(
            evaluation,
            table,
            costs=job.config.costs,
            bundle_id=job.bundle.id,
            scorings=scorings,
            points=tuple(job.bundle.operating_points.values()),
        )
        write_json(directory / "evaluation.json", document)
    with manifest.stage("page"):
        write_evaluation_page(document, table, directory)
    manifest.finish(
        dataset_directory=str(job.dataset.directory),
        protocol=job.films.protocol,
        films=len(table),
        leaked_films=job.leaks,
        unusable_files=len(job.dataset.problems),
        scorings=scorings,
    )
    return document


def _remark(document: Mapping[str, Any], problems: int, leaks: int) -> None:
    """What a reader of the figures must know besides them."""
    if leaks:
        notes().print(f"CONTAMINATED: the bundle has seen {leaks} of these films or their patients")
    if document["scorings"] > 1:
        notes().print(
            f"this bundle has now been scored {document['scorings']} times on these films; "
            "a test set that steers choices is a test set no more"
        )
    if problems:
        notes().print(f"{problems} files of the data set could not be used; its problems.csv names them")
