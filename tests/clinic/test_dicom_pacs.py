"""``pneumoscope pacs`` as it is run: images in, results back in the PACS, whatever dies meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path

import highdicom
import pytest
import requests
from pydicom import uid
from pydicom.dataset import Dataset
from sqlalchemy import select
from typer.testing import CliRunner

from pneumoscope.cli.main import app
from pneumoscope.core.errors import DeliveryError, InputError
from pneumoscope_clinic.settings import (
    ClinicSettings,
    Destination,
    DicomSettings,
    DicomwebSettings,
    Peer,
    load_settings,
)
from pneumoscope_clinic.store.database import open_store
from pneumoscope_clinic.store.tables import Film, Job, Result, now
from tests.clinic.dicom_peers import CANARIES, CR, association, film, film_file, parsed
from tests.clinic.orthanc import Orthanc, dcmtk, needs_dcmtk, needs_orthanc
from tests.clinic.stores import add_film, make_store
from tests.tiny_bundle import write_tiny_bundle

STUDY = "1.2.826.0.1.99999.7"
MAIN = "from pneumoscope.cli.main import main; main()"


class Clinic:
    """A configuration, and the command that runs on it."""

    def __init__(self, folder, toml):
        write_tiny_bundle(folder / "bundle")
        self.log = folder / "pacs.log"
        self.file = folder / "clinic.toml"
        self.file.write_text(
            f'data_dir = "{folder / "data"}"\nbundle = "{folder / "bundle"}"\nworkers = 1\n'
            f"[limits]\nlease_seconds = 2\n{toml}",
            encoding="utf-8",
        )
        self.store = open_store(load_settings(self.file, environment={}))

    @contextmanager
    def running(self):
        """The process and the port that it listens at; killed, with all that it started, if it still runs."""
        start = len(self.said())
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", MAIN, "pacs", "--config", str(self.file), "--port", "0"],
                stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        try:
            listens = re.compile(r"listens at 127\.0\.0\.1:(\d+)")
            found = wait_for(lambda: listens.search(self.said(), start) or process.poll())
            assert isinstance(found, re.Match), self.said()
            yield process, int(found[1])
        finally:
            process.kill()
            process.wait()
            wait_for(lambda: not alive(process.pid))

    def said(self):
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def jobs(self, kind, state):
        with self.store.read() as session:
            return len(session.scalars(select(Job.id).where(Job.kind == kind, Job.state == state)).all())

    def command(self, *arguments):
        found = CliRunner().invoke(
            app, ["pacs", *arguments, "--config", str(self.file)], catch_exceptions=False
        )
        assert found.exit_code == 0, found.output
        return found.stdout


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain")


def alive(group):
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def orthanc(tmp_path):
    with Orthanc(tmp_path / "orthanc") as found:
        yield found


@pytest.fixture
def clinic(tmp_path, orthanc):
    made = Clinic(
        tmp_path,
        f"""
[[destinations]]
name = "archive"
kind = "dimse"
host = "127.0.0.1"
port = {orthanc.dicom_port}
ae_title = "ORTHANC"
objects = ["sr", "sc", "gsps"]
[dicomweb]
url = "{orthanc.dicomweb}"
""",
    )
    yield made
    made.store.close()


@needs_orthanc
@needs_dcmtk
@pytest.mark.slow
def test_every_film_has_its_result_in_the_pacs_once_whatever_dies_meanwhile(clinic, orthanc, tmp_path):
    first = film_file(tmp_path, 1, uid.JPEGLosslessSV1)
    orthanc.upload(first.read_bytes())
    clinic.command("echo", "archive")
    orthanc.stop()

    with clinic.running() as (process, port):  # killed as soon as it has said that it has the image
        storescu(first, port)
        process.kill()
        process.wait()
        wait_for(lambda: not alive(process.pid))
    assert clinic.jobs("deliver", "waiting") <= 1

    with clinic.running() as (_, port):  # examined while the PACS is away
        with association(port, CR, syntaxes=[uid.ExplicitVRLittleEndian]) as sender:
            assert sender.send_c_store(film(2)).Status == 0x0000
        wait_for(lambda: clinic.jobs("examine", "done") == 2)
        wait_for(lambda: "no association" in clinic.said())
        rows = [json.loads(line) for line in clinic.command("deliveries", "--json").splitlines()]
        assert {row["destination"] for row in rows} == {"archive"}
        assert len(rows) == 2
    assert clinic.jobs("deliver", "done") == 0

    orthanc.start()
    clinic.command("deliveries", "--retry-now")
    with clinic.running() as (process, port):
        wait_for(lambda: clinic.jobs("deliver", "done") == 2)
        orthanc.upload(parsed_bytes(film(2)))
        storescu(first, port)  # an image that is sent again changes nothing
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        wait_for(lambda: not alive(process.pid))

    assert clinic.command("deliveries").strip() == "no result waits for a destination"
    check_archive(orthanc)
    with clinic.store.read() as session:
        assert len(session.scalars(select(Result)).all()) == 2
        assert [found.identity for found in session.scalars(select(Film))] == [None, None]
    assert [text for text in CANARIES if text in clinic.said()] == []


def storescu(file, port):
    subprocess.run(
        [dcmtk("storescu"), "-xs", "-aec", "PNEUMOSCOPE", "127.0.0.1", str(port), file], check=True
    )


def parsed_bytes(dataset):
    import io

    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def check_archive(orthanc):
    """Two images, and of each one result of each kind, in one study of one patient; found and read."""
    rows = orthanc.tags()
    by_modality = [row["Modality"] for row in rows]
    assert sorted(by_modality) == ["CR", "CR", "OT", "OT", "PR", "PR", "SR", "SR"]
    assert {row["StudyInstanceUID"] for row in rows} == {STUDY}
    assert {(row["PatientName"], row["PatientID"], row["AccessionNumber"]) for row in rows} == {
        ("CANARY^NAME", "CANARY-4711", "A1")
    }
    series = requests.get(f"{orthanc.dicomweb}/studies/{STUDY}/series", timeout=10).json()
    found = sorted(row["00080060"]["Value"][0] for row in series)
    assert found.count("SR") == 2
    assert found_by_c_find(orthanc) == found
    for row in orthanc.by_modality("SR"):
        report = highdicom.sr.srread(write_temporary(orthanc, row))
        image = report.content.get_image_measurement_groups()[0]
        assert image.source_images[0].referenced_sop_instance_uid in {f"{CANARIES[2]}.1", f"{CANARIES[2]}.2"}
    for row in orthanc.by_modality("OT"):
        capture = parsed(orthanc.file(row["ID"]))
        assert capture.SOPClassUID == uid.SecondaryCaptureImageStorage
        assert capture.pixel_array.ndim == 3


def write_temporary(orthanc, row):
    import io

    return io.BytesIO(orthanc.file(row["ID"]))


def found_by_c_find(orthanc):
    model = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root Query/Retrieve, FIND
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.Modality = "SERIES", STUDY, ""
    query.SeriesInstanceUID = ""
    with association(orthanc.dicom_port, model, called="ORTHANC") as asker:
        return sorted(
            found.Modality for status, found in asker.send_c_find(query, model) if status.Status == 0xFF00
        )


@needs_orthanc
def test_pull_takes_what_the_pacs_has_and_says_how_much(clinic, orthanc, tmp_path):
    for number in (1, 2):
        orthanc.upload(film_file(tmp_path, number).read_bytes())

    assert clinic.command(
        "pull", "--query", "ModalitiesInStudy=CR", "--since", "2024-01-01", "--limit", "1"
    ) == ("1 images taken, 0 were here, 0 were not given\n")
    assert json.loads(clinic.command("pull", "--query", f"StudyInstanceUID={STUDY}", "--json")) == {
        "taken": 1,
        "known": 1,
        "failed": 0,
    }
    assert clinic.jobs("examine", "waiting") == 2


class TestCommands:
    def command(self, tmp_path, *arguments, **settings):
        store = make_store(tmp_path, **settings)
        store.close()
        given = ["pacs", *arguments, "--data-dir", str(tmp_path / "data")]
        return CliRunner().invoke(app, given, catch_exceptions=True, env={"PNEUMOSCOPE_CONFIG": ""})

    def test_deliveries_are_listed_with_what_went_wrong(self, tmp_path):
        store = make_store(tmp_path)
        film_id = add_film(store)
        with store.write() as session:
            problem = {"problem": "the peer rejected the association", "remedy": "allow us"}
            session.add(
                Job(
                    film_id=film_id,
                    kind="deliver",
                    target="pacs",
                    state="failed",
                    problem=problem,
                    finished_at=now(),
                )
            )
            session.add(Job(film_id=film_id, kind="deliver", target="web", attempts=3))
            session.add(Job(film_id=film_id, kind="deliver", target="done", state="done"))
        store.close()

        lines = self.command(tmp_path, "deliveries").stdout.splitlines()
        assert lines[0].startswith("pacs: 1 given up, the oldest since 20")
        assert lines[1:3] == ["  the peer rejected the association", "  allow us"]
        assert re.fullmatch(r"web: 1 waiting, the oldest since 20\S+, next attempt 20\S+", lines[3])
        assert len(lines) == 4
        rows = [
            json.loads(line) for line in self.command(tmp_path, "deliveries", "--json").stdout.splitlines()
        ]
        assert [
            (row["film"], row["destination"], row["state"], row["attempts"], row["remedy"]) for row in rows
        ] == [
            (film_id, "pacs", "failed", 0, "allow us"),
            (film_id, "web", "waiting", 3, None),
        ]
        one = self.command(tmp_path, "deliveries", "--json", "--destination", "pacs", "--retry-now").stdout
        assert [json.loads(line)["state"] for line in one.splitlines()] == ["waiting"]

    def test_an_unknown_destination_is_an_error_of_the_user(self, tmp_path):
        found = self.command(tmp_path, "echo", "nowhere")
        assert isinstance(found.exception, InputError)
        assert "no destination is called nowhere" in str(found.exception)

    @pytest.mark.parametrize("query", ["PatientID", "=7"])
    def test_a_query_has_a_key_and_a_value(self, tmp_path, query):
        found = self.command(tmp_path, "pull", "--url", "http://127.0.0.1:1/dicom-web", "--query", query)
        assert isinstance(found.exception, InputError)
        assert "KEYWORD=VALUE" in str(found.exception)

    def test_a_pacs_that_is_not_there_is_an_error_that_does_not_name_the_patient(self, tmp_path):
        found = self.command(
            tmp_path, "pull", "--url", "http://127.0.0.1:1/dicom-web", "--query", "PatientName=CANARY"
        )
        assert isinstance(found.exception, DeliveryError)
        assert found.exception.exit_code == 2
        assert "CANARY" not in str(found.exception)


def test_the_documented_configuration_is_one_and_every_key_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = text[text.index("\n## pacs\n") :]
    example = re.search(r"```toml\n(.*?)```", section, flags=re.DOTALL)
    settings = ClinicSettings(**tomllib.loads(example[1]))
    assert [found.kind for found in settings.destinations] == ["dimse", "fhir"]
    for kind in (DicomSettings, Peer, Destination, DicomwebSettings):
        assert [key for key in kind.model_fields if not re.search(rf"`([a-z]+\.)?{key}`", section)] == [], (
            kind
        )


@pytest.mark.parametrize("name", ["Modaltiy", "modality", "0008006", "study date", "0008,0060"])
def test_a_query_by_what_dicom_does_not_know_is_refused(tmp_path, name):
    make_store(tmp_path).close()
    flags = ["--data-dir", str(tmp_path / "data"), "--url", "http://127.0.0.1:9/"]
    result = CliRunner().invoke(app, ["pacs", "pull", "--query", f"{name}=CR", *flags])
    assert isinstance(result.exception, InputError)
    assert result.exception.problem == f"--query: DICOM has no attribute '{name}'"
    assert result.exception.expected is not None
    assert result.exception.remedy == (
        "perhaps Modality is meant" if "odal" in name else result.exception.remedy
    )


@pytest.mark.parametrize("name", ["ModalitiesInStudy", "00080061", "0020000D"])
def test_a_query_by_what_dicom_knows_reaches_the_server(tmp_path, name):
    make_store(tmp_path).close()
    flags = ["--data-dir", str(tmp_path / "data"), "--url", "http://127.0.0.1:9/"]
    result = CliRunner().invoke(app, ["pacs", "pull", "--query", f"{name}=CR", *flags])
    assert isinstance(result.exception, DeliveryError)
