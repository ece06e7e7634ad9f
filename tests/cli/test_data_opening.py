"""``data clusters`` and ``data split --method leave-cluster-out`` on films of two made-up devices."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

from typer.testing import CliRunner, Result

from pneumoscope.cli.data import app
from pneumoscope.core.files import read_json
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import Split, split_file
from tests.data.test_acquisition import dataset as dataset  # a fixture


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_clusters_are_written_shown_and_left_out_whole(dataset: Dataset) -> None:
    folder = dataset.directory / "acquisition"
    shown = run("clusters", dataset.directory).stdout
    assert "pneumonia told from normal by exposure alone: AUC" in shown
    with open(folder / "clusters.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [sample.path for sample in dataset.samples]
    assert {row["sha256"] for row in rows} == {sample.sha256 for sample in dataset.samples}
    assert read_json(folder / "acquisition.json")["count"] == 2
    assert json.loads(run("clusters", dataset.directory, "--json").stdout) == read_json(
        folder / "acquisition.json"
    )

    found = json.loads(
        run("split", dataset.directory, "--method", "leave-cluster-out", "--name", "c", "--json").stdout
    )
    split = Split.load(split_file(dataset.directory, "c"))
    assert split.parts == {row["path"]: f"fold-{row['cluster']}" for row in rows}
    assert found["parts"]["fold-0"]["films"] == 20


def test_the_page_shows_every_cluster_in_one_file(dataset: Dataset) -> None:
    run("clusters", dataset.directory, "--count", 3)
    page: Path = dataset.directory / "acquisition" / "acquisition.html"
    html = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "<script" not in html
    for number, item in enumerate(read_json(page.with_name("acquisition.json"))["clusters"]):
        assert f'<h2 id="cluster-{number}">' in html
        assert item["telling"][0]["title"][1:] in html
    assert html.count("A sheet of chest radiographs of this cluster.") == 3
