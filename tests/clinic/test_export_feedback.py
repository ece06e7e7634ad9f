"""The growing data set: who is in it, who is not, and that nothing in it names a patient."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from sqlalchemy import select

from pneumoscope.core.errors import DatasetError, InputError
from pneumoscope.core.records import Label
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import SplitConfig, split_dataset
from pneumoscope_clinic.export_feedback import Wishes, export_feedback
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import AuditEntry, Film, now
from pneumoscope_clinic.worker.sandbox_tasks import draw_picture
from tests.clinic.stores import add_feedback, add_film, add_user, make_store
from tests.films import write_film

WISHES = Wishes("CC-BY-4.0")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = make_store(tmp_path)
    yield made
    made.close()


def film(store: Store, tmp_path: Path, number: int, text: str = "", **values: object) -> str:
    """An image of its own brightness, with text if wished."""
    file = write_film(tmp_path / "in.png", 0.3 + 0.005 * number)
    picture = Image.open(file).resize((480, 360))
    if text:
        ImageDraw.Draw(picture).text((10, 10), text, fill=255, font=ImageFont.load_default(20))
    picture.save(file, pnginfo=None)
    return add_film(store, content=file.read_bytes(), **values)  # type: ignore[arg-type]


def export(store: Store, destination: Path, wishes: Wishes = WISHES):
    return export_feedback(store, destination, wishes, draw_picture, actor="terminal:test")


def test_confirmed_films_become_a_data_set_that_can_be_split(store: Store, tmp_path: Path) -> None:
    for number in range(30):
        facts = {"view_position": "PA"}
        one = film(store, tmp_path, number, patient=f"p{number // 2}", facts=facts, sex="F", age_years=3.0)
        add_feedback(store, one, "normal" if number % 4 < 2 else "bacterial", consent=True)
    done = export(store, tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set")
    assert (done.added, done.removed, len(dataset.samples)) == (30, 0, 30)
    assert dataset.hash == done.dataset.hash
    assert {sample.label for sample in dataset.samples} == {Label.NORMAL, Label.BACTERIAL}
    assert len({sample.patient_id for sample in dataset.samples}) == 15
    sample = dataset.samples[0]
    assert (sample.view, sample.sex, sample.age_years) == ("PA", "F", 3.0)
    assert (sample.width, sample.height) == (480, 360)
    split = split_dataset(dataset, SplitConfig())
    parts = {name: {s.patient_id for s in split.samples(dataset, name)} for name in split.names}
    assert sum(len(patients) for patients in parts.values()) == 15
    assert "Licence: CC-BY-4.0" in dataset.notes
    facts_file = json.loads((tmp_path / "set" / "export.json").read_text())
    assert (facts_file["licence"], facts_file["films"], facts_file["patients"]) == ("CC-BY-4.0", 30, 15)
    with store.read() as session:
        entry = session.scalar(select(AuditEntry).where(AuditEntry.action == "feedback.exported"))
    assert entry is not None
    assert (entry.actor, entry.object, entry.detail["films"]) == ("terminal:test", dataset.hash, 30)


def test_patients_keep_their_pseudonym_and_nothing_names_them_or_our_films(
    store: Store, tmp_path: Path
) -> None:
    one = film(store, tmp_path, 1, text="CANARY", patient="CANARY-7")
    add_feedback(store, one, "viral", consent=True)
    export(store, tmp_path / "a")
    export(store, tmp_path / "b")
    first, second = (Dataset.open(tmp_path / name).samples for name in "ab")
    assert first == second
    everything = b"".join(path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file())
    with store.read() as session:
        row = session.get_one(Film, one)
        secrets = ["CANARY", row.id, row.study_id, row.study.patient_key, row.sha256]
    for secret in secrets:
        assert secret is not None
        assert secret.encode() not in everything
    chunks = set()
    content = (tmp_path / "a" / first[0].path).read_bytes()
    place = 8
    while place < len(content):
        chunks.add(content[place + 4 : place + 8])
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    assert chunks == {b"IHDR", b"IDAT", b"IEND"}


def test_who_is_left_out_is_said(store: Store, tmp_path: Path) -> None:
    anna, ben = add_user(store, "anna"), add_user(store, "ben")
    films = [film(store, tmp_path, number) for number in range(7)]
    add_feedback(store, films[0], "normal", consent=True, user_id=anna)
    add_feedback(store, films[1], "normal", consent=False, user_id=anna)
    add_feedback(store, films[2], "normal", consent=True, user_id=anna)
    add_feedback(store, films[2], "viral", consent=True, user_id=ben)
    add_feedback(store, films[3], "other", consent=True, user_id=anna)
    add_feedback(store, films[4], "viral", consent=True, user_id=anna)
    add_feedback(store, films[4], "bacterial", consent=True, user_id=anna)
    add_feedback(store, films[5], "normal", consent=True, user_id=anna)
    add_feedback(store, films[5], "normal", consent=True, user_id=ben)
    with store.write() as session:
        session.get_one(Film, films[6]).pixels_gone = True
    add_feedback(store, films[6], "normal", consent=True, user_id=anna)
    done = export(store, tmp_path / "set")
    assert sorted(sample.label for sample in done.dataset.samples) == ["bacterial", "normal", "normal"]
    assert done.left_out == {
        "there is no consent to training": 1,
        "readers disagree (normal, viral)": 1,
        "the diagnosis is no class of the data set": 1,
        "the pixels were deleted": 1,
    }
    two = export(store, tmp_path / "two", Wishes("internal", min_readers=2))
    assert len(two.dataset.samples) == 1
    viral = export(store, tmp_path / "bacterial", Wishes("internal", diagnoses=(Label.BACTERIAL,)))
    assert [sample.label for sample in viral.dataset.samples] == [Label.BACTERIAL]
    recent = Wishes("internal", since=now() + timedelta(days=1))
    with pytest.raises(InputError, match="no image may be exported"):
        export(store, tmp_path / "none", recent)


def test_the_same_bytes_sent_twice_are_one_film_with_all_that_was_said(store: Store, tmp_path: Path) -> None:
    twins = [film(store, tmp_path, 1, patient="a"), film(store, tmp_path, 1, patient="a")]
    other = film(store, tmp_path, 2)
    add_feedback(store, twins[0], "normal", consent=True, user_id=add_user(store, "anna"))
    add_feedback(store, twins[1], "viral", consent=True, user_id=add_user(store, "ben"))
    add_feedback(store, other, "normal", consent=True)
    done = export(store, tmp_path / "set")
    assert len(done.dataset.samples) == 1
    assert done.left_out == {"readers disagree (normal, viral)": 1}


def test_an_export_grows_and_forgets_whose_consent_was_taken_back(store: Store, tmp_path: Path) -> None:
    first, second = film(store, tmp_path, 1), film(store, tmp_path, 2)
    add_feedback(store, first, "normal", consent=True)
    export(store, tmp_path / "set")
    add_feedback(store, first, "normal", consent=False)
    add_feedback(store, second, "viral", consent=True)
    done = export(store, tmp_path / "set")
    assert (done.added, done.removed) == (1, 1)
    assert len(list((tmp_path / "set" / "films").iterdir())) == 1
    assert [sample.label for sample in Dataset.open(tmp_path / "set").samples] == [Label.VIRAL]


def test_since_keeps_what_an_earlier_export_has(store: Store, tmp_path: Path) -> None:
    first, second = film(store, tmp_path, 1), film(store, tmp_path, 2)
    add_feedback(store, first, "normal", consent=True, at=now() - timedelta(days=9))
    export(store, tmp_path / "set")
    add_feedback(store, second, "viral", consent=True)
    assert (
        len(export(store, tmp_path / "set", Wishes("x", since=now() - timedelta(days=1))).dataset.samples)
        == 2
    )
    assert (
        len(export(store, tmp_path / "new", Wishes("x", since=now() - timedelta(days=1))).dataset.samples)
        == 1
    )


def test_a_film_that_was_altered_in_the_export_is_written_anew(store: Store, tmp_path: Path) -> None:
    add_feedback(store, film(store, tmp_path, 1), "normal", consent=True)
    before = export(store, tmp_path / "set").dataset
    before.file(before.samples[0]).write_bytes(b"altered")
    assert export(store, tmp_path / "set").dataset.hash == before.hash


def test_text_in_the_picture_is_covered(store: Store, tmp_path: Path) -> None:
    plain, named = film(store, tmp_path, 1), film(store, tmp_path, 2, text="DOE JANE 12.03.2019")
    for one in (plain, named):
        add_feedback(store, one, "normal", consent=True)
    done = export(store, tmp_path / "set")
    brightest = []
    for sample in done.dataset.samples:
        pixels = np.asarray(Image.open(io.BytesIO(done.dataset.file(sample).read_bytes())))
        assert pixels.shape == (360, 480)
        brightest.append(int(pixels[:50, :300].max()))
    assert max(brightest) < 200


def test_there_is_no_export_without_a_licence_or_into_something_else(store: Store, tmp_path: Path) -> None:
    add_feedback(store, film(store, tmp_path, 1), "normal", consent=True)
    with pytest.raises(InputError, match="an export needs a licence"):
        export(store, tmp_path / "set", Wishes("  "))
    assert not (tmp_path / "set").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds something else"):
        export(store, tmp_path / "other")


def test_a_film_that_cannot_be_decoded_stops_nothing(store: Store, tmp_path: Path) -> None:
    good = film(store, tmp_path, 1)
    bad = add_film(store, content=b"\x89PNG\r\n\x1a\n broken")
    for one in (good, bad):
        add_feedback(store, one, "normal", consent=True)
    done = export(store, tmp_path / "set")
    assert len(done.dataset.samples) == 1
    assert len(done.dataset.problems) == 1
