"""The page of a shortcut audit: one file, the verdict first, every figure of the JSON on it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.records import Explanation, Radiograph
from pneumoscope.evaluation.shortcut_audit import (
    ExampleFilm,
    ShortcutConfig,
    check_limits,
    release_verdict,
    score_maps,
    score_probes,
)
from pneumoscope.reporting.shortcut_page import (
    auc_chart,
    contact_sheet,
    fidelity_chart,
    map_rows,
    shortcut_markdown,
    write_shortcut_page,
)
from tests.evaluation.audits import made_up_maps, made_up_probes, made_up_table
from tests.evaluation.films import sample

AREA = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 40, "method": "bootstrap"}
CONFIG = ShortcutConfig(resamples=100)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    probes = score_probes(made_up_table(width=64, height=64), made_up_probes(), CONFIG)
    maps = score_maps(made_up_maps(), CONFIG) | {"note": "opened"}
    checks = check_limits(probes, maps, CONFIG)
    kind = {"title": "The file alone", "what": "its size", "roc_auc": AREA, "accuracy": AREA,
            "best": {"name": "file_bytes", "roc_auc": 0.88}}  # fmt: skip
    return {
        "verdict": release_verdict(checks), "checks": checks, "films": 40, "patients": 40,
        "dataset": "made-up <images>", "dataset_hash": "0" * 64, "protocol": "out of fold", "left_out": 7,
        "without_lungs": {"viral": 2}, "segmenter": "abc", "seed": 0, "bundles": {"fold-0": "a@1"},
        "limits": CONFIG.model_dump(), "probes": probes, "maps": maps,
        "giveaways": {"method": "boosting", "majority": 0.5, "kinds": {"metadata": kind}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def examples() -> list[ExampleFilm]:
    """Two images of 80 x 120, the left half lung, the heat map everywhere."""
    film = np.full((80, 120), 0.5, np.float32)
    lungs = np.zeros((2, 80, 120), dtype=bool)
    lungs[0, 10:70, 10:50] = lungs[1, 10:70, 70:110] = True
    explanation = Explanation(np.ones((80, 120), np.float32), "class-activation", "bacterial")
    changed = {probe.title: 0 * film for probe in made_up_probes()}
    answers = dict.fromkeys(("Unchanged", *changed), 0.25)
    radiograph = Radiograph(film, (80, 120))
    return [ExampleFilm(sample(n), radiograph, lungs, explanation, changed, answers) for n in range(2)]


def test_the_page_says_it_all_in_one_file(document, examples, tmp_path: Path) -> None:
    html = write_shortcut_page(document, examples, tmp_path).read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "<script" not in html
    assert "<films>" not in html
    assert "FAIL: not to be released" in html
    for check in document["checks"]:
        assert check["title"].replace("'", "&#39;") in html
    for probe in document["probes"][1:]:
        assert probe["what"][1:].replace("'", "&#39;") in html
    assert "not measured: every image is square" in html
    assert "2 viral" in html
    assert (tmp_path / "shortcuts.md").read_text(encoding="utf-8") == shortcut_markdown(document)
    assert (tmp_path / "contact-sheet.jpg").is_file()


def test_without_maps_the_page_says_so(document, examples, tmp_path: Path) -> None:
    bare = {**document, "maps": None, "giveaways": {"method": "", "majority": 0.5, "kinds": {}}}
    html = write_shortcut_page(bare, examples, tmp_path).read_text(encoding="utf-8")
    assert "none of the images shows pneumonia" in html
    assert "heat maps |" not in shortcut_markdown(bare)


def test_an_audit_of_before_with_gradients_and_random_weights_still_opens(
    document, examples, tmp_path: Path
) -> None:
    number = {"value": 0.46, "low": 0.43, "high": 0.49, "n": 60, "method": "bootstrap"}
    maps = {
        **document["maps"],
        "note": "gradients and random layers by the networks' own graphs",
        "agreement": {
            "occlusion and integrated gradients": {"rank_correlation": number, "top_overlap": number}
        },
        "randomised": {"head": {"rank_correlation": number, "similarity": number}},
    }
    old = {**document, "maps": maps}
    html = write_shortcut_page(old, examples, tmp_path).read_text(encoding="utf-8")
    assert "Adebayo" in html
    assert "Adebayo" not in write_shortcut_page(document, examples, tmp_path / "new").read_text("utf-8")
    titles = [row[0] for row in map_rows(maps)]
    assert "Rank correlation: occlusion and integrated gradients" in titles
    assert "Random weights (head): size of the rank correlation" in titles
    assert "0.460 (0.430 to 0.490)" in shortcut_markdown(old)


def test_the_markdown_has_every_table(document) -> None:
    lines = shortcut_markdown(document).splitlines()
    assert lines[0] == "**FAIL: not to be released.**"
    assert any(
        line.startswith("| AUC: Lungs black | at most 0.75 | 1.000 (") and "**fail**" in line
        for line in lines
    )
    assert "| The file alone | its size | 0.900 (0.850 to 0.950) | 90.0 % | file bytes: 0.880 |" in lines
    assert "| The commoner class | nothing | 0.500 | 50.0 % |  |" in lines
    assert any(line.startswith("| Share of the map in the lungs | 0.500 (") for line in lines)
    for start in ("| check", "| image", "| classifier", "| heat maps"):
        first = next(number for number, line in enumerate(lines) if line.startswith(start))
        rows = lines[first : lines.index("", first)]
        assert len({row.count("|") for row in rows}) == 1
    assert lines[-1].endswith("Left out, as no pair of lungs was found on them: 2 images (2 viral).")


def test_the_contact_sheet_has_a_row_a_film(examples) -> None:
    with Image.open(io.BytesIO(contact_sheet(examples))) as sheet:
        pixels = np.asarray(sheet).astype(int)
    one = np.asarray(Image.open(io.BytesIO(contact_sheet(examples[:1]))))
    assert pixels.shape[1] == one.shape[1]
    assert pixels.shape[0] - one.shape[0] == one.shape[0] - 40  # the heading
    outlined = pixels[40:172, :132]
    red, blue = (outlined[..., 0] - outlined[..., 2] > 80), (outlined[..., 2] - outlined[..., 0] > 80)
    assert red[:, :66].any()  # the patient's right lung is on the left of the picture
    assert not red[:, 70:].any()
    assert blue[:, 66:].any()


def test_the_charts_show_every_row(document) -> None:
    figure = auc_chart(document["probes"], list(document["giveaways"]["kinds"].values()), 0.75)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [*(row["title"] for row in document["probes"]), "The file alone"]
    assert auc_chart([], [], 0.75) is None
    figure.canvas.draw()
    curves = fidelity_chart(document["maps"]["curves"])
    assert [axes.get_title("left") for axes in curves.axes] == ["Deletion", "Insertion"]
    assert all(len(axes.lines) == 2 for axes in curves.axes)
