"""Tables of public sets are read: files are found, columns recognised, contradictions and gaps listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label, Sample
from pneumoscope.data.importers import ImportOptions, import_dataset
from pneumoscope.data.layouts import parse_class_map
from pneumoscope.data.tables import find_table, to_sex
from pneumoscope.imaging.header import to_age, to_view
from tests.data.films import write_film

PNEUMONIA = "pneumonia-unspecified"


def films(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        write_film(root / name, seed)
    return root


def rows(root: Path, text: str, name: str = "labels.csv", **options: object) -> tuple[Sample, ...]:
    (root / name).write_text(text, encoding="utf-8")
    return import_dataset(root, root.parent / "set", ImportOptions(**options)).samples  # type: ignore[arg-type]


def test_every_column(tmp_path: Path) -> None:
    root = films(tmp_path / "films", "images/a.png", "images/b.png")
    a, b = rows(
        root,
        "file,patient_id,label,age_years,sex,view,site,split\n"
        "images/a.png,7,normal,3.5,female,PA,Guangzhou,train\n"
        "images/b.png,,viral,,,,,validation\n",
    )
    assert (a.path, a.patient_id, a.group_id, a.label) == ("images/a.png", "7", "7", Label.NORMAL)
    assert (a.age_years, a.sex, a.view, a.site, a.publisher_split) == (3.5, "F", "PA", "Guangzhou", "train")
    assert (b.patient_id, b.label, b.publisher_split) == ("b", Label.VIRAL, "val")
    assert (b.age_years, b.sex, b.view, b.site) == (None, None, None, None)


@pytest.mark.parametrize(
    ("header", "row", "label"),
    [
        ("Image Index,Finding Labels,Patient ID,Patient Age", "a.png,Edema|Pneumonia,1,60", PNEUMONIA),
        ("X_ray_image_name,Label,Label_1_Virus_category", "a.png,Pnemonia,bacteria", "bacterial"),
        ("Path,Sex,Age,Frontal/Lateral,AP/PA,Pneumonia", "a.png,M,60,Frontal,AP,1.0", PNEUMONIA),
        ("filename,class", "a.png,0", "normal"),
        ("PATH;CLASS", "a.png;healthy", "normal"),
        ("image\tdiagnosis", "a.png\tBacterial pneumonia", "bacterial"),
    ],
)  # fmt: skip
def test_headers_of_public_sets(tmp_path: Path, header: str, row: str, label: str) -> None:
    (only,) = rows(films(tmp_path / "films", "a.png"), f"{header}\n{row}\n")
    assert only.label == label


def test_the_spreadsheets_byte_order_mark_and_latin_1(tmp_path: Path) -> None:
    root = films(tmp_path / "films", "a.png", "b.png")
    (root / "labels.csv").write_bytes("file,label,site\r\na.png,normal,Köln\r\n".encode("utf-8-sig"))
    assert import_dataset(root, tmp_path / "one").samples[0].site == "Köln"
    (root / "labels.csv").write_bytes("file,label,site\na.png,normal,Köln\n".encode("latin-1"))
    assert import_dataset(root, tmp_path / "two").samples[0].site == "Köln"


def test_films_are_found_by_name_and_without_ending(tmp_path: Path) -> None:
    root = films(tmp_path / "films", "deep/er/a.png", "deep/b.png")
    found = rows(root, "file,label\na.png,normal\nb,viral\n")
    assert [s.path for s in found] == ["deep/b.png", "deep/er/a.png"]


def test_films_outside_the_tables_folder(tmp_path: Path) -> None:
    root = films(tmp_path / "films", "a.png")
    tables = tmp_path / "tables"
    tables.mkdir()
    table = tables / "t.csv"
    table.write_text(f"file,label\n../films/a.png,normal\n{root / 'a.png'},normal\n")
    dataset = import_dataset(table, tmp_path / "set")
    assert [s.path for s in dataset.samples] == ["films/a.png"]
    assert dataset.root == tmp_path.resolve()


def test_rows_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    root = films(tmp_path / "films", "a.png", "b.png", "c.png")
    (root / "labels.csv").write_text(
        "file,label\na.png,normal\na.png,normal\nb.png,normal\nb.png,viral\nc.png,\ngone.png,viral\nd.png,TB\n"
    )
    options = ImportOptions(class_map=parse_class_map(["TB=skip"]))
    dataset = import_dataset(root, tmp_path / "set", options)
    assert [s.path for s in dataset.samples] == ["a.png"]
    assert {problem.path: problem.reason for problem in dataset.problems} == {
        "b.png": "the table gives it several labels (normal, viral)",
        "c.png": "the table gives no label or no path",
        "d.png": "class 'TB' is left out by the class mapping",
        "gone.png": "no such file",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,other\na.png,x\n", "no column of labels"),
        ("other,label\na.png,normal\n", "no column of files"),
        ("file,label\n", "no rows"),
        ("file,label\na.png,TB\n", "unknown class name 'TB'"),
        ("", "no column of files"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    root = films(tmp_path / "films", "a.png")
    (root / "t.csv").write_text(text or "\n\n")
    with pytest.raises(DatasetError, match=message if text else "no rows"):
        import_dataset(root / "t.csv", tmp_path / "set")


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a data set"):
        import_dataset(write_film(tmp_path / "a.png", 1), tmp_path / "set")


def test_the_first_table_that_fits_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / ".b.csv").write_text("file,label\n")
    assert find_table(tmp_path) is None
    (tmp_path / "c.csv").write_text("image,finding\n")
    assert find_table(tmp_path) == tmp_path / "c.csv"


RSNA = "patientId,x,y,width,height,Target\np1,,,,,0\np2,1,2,3,4,1\np2,5,6,7,8,1\np3,,,,,0\ngone,,,,,0\n"


def rsna(root: Path) -> Path:
    films(root, "stage_2_train_images/p1.png", "stage_2_train_images/p2.png", "stage_2_train_images/p3.png")
    (root / "stage_2_train_labels.csv").write_text(RSNA)
    return root


def test_rsna(tmp_path: Path) -> None:
    dataset = import_dataset(rsna(tmp_path / "films"), tmp_path / "set")
    assert dataset.layout == "rsna"
    assert [(s.patient_id, s.label) for s in dataset.samples] == [
        ("p1", Label.NORMAL), ("p2", Label.PNEUMONIA), ("p3", Label.NORMAL),
    ]  # fmt: skip
    assert [(p.path, p.reason) for p in dataset.problems] == [("gone", "no such file")]
    assert "Target 0 counts as normal" in dataset.notes[0]


def test_rsna_with_its_second_table(tmp_path: Path) -> None:
    root = rsna(tmp_path / "films")
    (root / "stage_2_detailed_class_info.csv").write_text(
        "patientId,class\np1,Normal\np2,Lung Opacity\np3,No Lung Opacity / Not Normal\ngone,Normal\n"
    )
    dataset = import_dataset(root, tmp_path / "set")
    assert [s.patient_id for s in dataset.samples] == ["p1", "p2"]
    assert dataset.problems[1].path == "stage_2_train_images/p3.png"
    assert "neither normal nor pneumonia" in dataset.problems[1].reason
    options = ImportOptions(class_map=parse_class_map(["No Lung Opacity / Not Normal=normal"]))
    assert len(import_dataset(root, tmp_path / "set", options).samples) == 3


def test_rsna_with_a_wrong_target(tmp_path: Path) -> None:
    root = rsna(tmp_path / "films")
    (root / "stage_2_train_labels.csv").write_text("patientId,x,y,width,height,Target\np1,,,,,2\n")
    with pytest.raises(DatasetError, match="Target is '2'"):
        import_dataset(root, tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("7", 7.0), ("7.5", 7.5), ("007Y", 7.0), ("018M", 1.5), ("010D", 0.03), ("026W", 0.5), ("", None),
        ("old", None), ("148", None), ("-1", None),
    ],
)  # fmt: skip
def test_age(text: str, years: float | None) -> None:
    assert to_age(text) == years


def test_sex_and_view() -> None:
    assert [to_sex(text) for text in ("F", "male", " m", "O", "")] == ["F", "M", "M", None, None]
    assert [to_view(text) for text in ("pa", "AP", "LL", "Lateral", "oblique", "")] == [
        "PA", "AP", "LATERAL", "LATERAL", None, None,
    ]  # fmt: skip
