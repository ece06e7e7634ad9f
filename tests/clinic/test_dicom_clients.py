"""What sends results and fetches images: against a fake peer, a fake web server, and Orthanc."""

import http.server
import io
import json
import ssl
import threading
from contextlib import contextmanager

import pytest
from pydicom import uid
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity

from pneumoscope.core.errors import ConfigError, DeliveryError
from pneumoscope_clinic.dicom.association import VERIFICATION
from pneumoscope_clinic.dicom.http_clients import (
    FhirClient,
    FilmReference,
    StowClient,
    WebSource,
    single_part,
)
from pneumoscope_clinic.dicom.pull import pull, study_query
from pneumoscope_clinic.dicom.storage_client import StorageClient
from pneumoscope_clinic.results.dicom_objects import dicom_objects
from pneumoscope_clinic.results.fhir import StudyResults
from pneumoscope_clinic.settings import Destination, DicomSettings, DicomwebSettings
from pneumoscope_clinic.store.tables import Film
from tests.clinic.dicom_peers import CR, DX, film_file, parsed
from tests.clinic.film_results import film_result, header
from tests.clinic.orthanc import Orthanc, free_port, needs_orthanc
from tests.clinic.stores import make_store
from tests.clinic.test_dicom_node import certificates

STUDY = StudyResults("0" * 32, (film_result(header()),))


@contextmanager
def archive(classes=None, answer=lambda event: 0x0000, title="PACS", tls=None):
    """A storage SCP: its port, and what it was sent."""
    entity, stored = ApplicationEntity(title), []
    entity.require_called_aet = True
    for sop_class in classes or [dataset.SOPClassUID for dataset in dicom_objects(STUDY.films[0])]:
        entity.add_supported_context(sop_class, [uid.ImplicitVRLittleEndian])
    entity.add_supported_context(VERIFICATION)

    def store(event):
        status = answer(event)
        if status in (0x0000, 0xB000):
            stored.append(event.dataset)
        return status

    connections = []
    handlers = [
        (evt.EVT_C_STORE, store),
        (evt.EVT_CONN_OPEN, lambda event: connections.append(event.assoc.dul.socket.socket)),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, ssl_context=tls, evt_handlers=handlers)
    try:
        yield server.server_address[1], stored
    finally:
        server.shutdown()
        entity.shutdown()
        for connection in connections:
            connection.close()


def pacs(port, host="127.0.0.1", title="PACS", settings=None, **more):
    destination = Destination(name="pacs", kind="dimse", host=host, port=port, ae_title=title, **more)
    return StorageClient(destination, settings or DicomSettings(timeout_seconds=5))


class TestStorageClient:
    def test_the_objects_of_a_result_are_stored_as_they_are(self):
        with archive() as (port, stored):
            assert pacs(port).deliver(STUDY) == 2
            assert pacs(port).deliver(STUDY) == 2
        expected = dicom_objects(STUDY.films[0])
        assert [dataset.SOPInstanceUID for dataset in stored] == [
            made.SOPInstanceUID for made in expected
        ] * 2
        assert stored[0] == expected[0]  # converted to implicit VR, which is all that this peer takes
        assert stored[0].StudyInstanceUID == header().StudyInstanceUID

    def test_echo(self):
        with archive() as (port, _):
            pacs(port).check()

    @pytest.mark.parametrize(
        ("status", "down", "said"),
        [
            (0xA700, True, "out of resources (status A700)"),
            (0xA900, False, "refused Comprehensive 3D SR Storage with status A900"),
            (0xC123, False, "with status C123"),
            (0x0122, False, "with status 0122"),
        ],
    )
    def test_a_status_that_is_no_success_is_said(self, status, down, said):
        with archive(answer=lambda event: status) as (port, stored), pytest.raises(DeliveryError) as caught:
            pacs(port).deliver(STUDY)
        assert said in caught.value.problem
        assert caught.value.destination_down is down
        assert stored == []

    def test_a_warning_is_a_success(self):
        with archive(answer=lambda event: 0xB000) as (port, stored):
            assert pacs(port).deliver(STUDY) == 2
        assert len(stored) == 2

    def test_a_kind_of_object_that_the_peer_does_not_take_is_named(self):
        with archive(classes=[CR]) as (port, _), pytest.raises(DeliveryError) as caught:
            pacs(port).deliver(STUDY)
        assert "does not accept Comprehensive 3D SR Storage" in caught.value.problem
        assert not caught.value.destination_down

    def test_nobody_there_a_wrong_title_and_an_unknown_host_mean_that_it_is_down(self):
        with archive() as (port, _):
            for client, said in (
                (pacs(port, title="OTHER"), "Called AE title not recognised"),
                (pacs(free_port()), "cannot be reached"),
                (pacs(port, host="no-such-host.invalid"), "name is not known"),
                (pacs(port, tls=True), "did not accept TLS"),
            ):
                for ask in (client.check, lambda client=client: client.deliver(STUDY)):
                    with pytest.raises(DeliveryError) as caught:
                        ask()
                    assert said in caught.value.problem
                    assert caught.value.destination_down
                    assert caught.value.where == "pacs"

    def test_a_peer_that_goes_away_in_the_middle_is_down(self):
        def leave(event):
            event.assoc.abort()
            return 0x0000

        with archive(answer=leave) as (port, _), pytest.raises(DeliveryError) as caught:
            pacs(port).deliver(STUDY)
        assert caught.value.destination_down

    def test_tls_both_ways(self, tmp_path):
        files = certificates(tmp_path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files["ca.pem"])
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(files["node.pem"], files["node.key"])
        known = DicomSettings(
            tls_ca=files["ca.pem"], tls_certificate=files["peer.pem"], tls_key=files["peer.key"]
        )
        with archive(tls=context) as (port, stored):
            assert pacs(port, host="localhost", settings=known, tls=True).deliver(STUDY) == 2
            for settings in (DicomSettings(), DicomSettings(tls_ca=files["stranger.pem"])):
                with pytest.raises(DeliveryError):
                    pacs(port, host="localhost", settings=settings, tls=True).check()
        assert len(stored) == 2


class Web(http.server.BaseHTTPRequestHandler):
    """Answers with what ``answers`` of its server says next; remembers requests."""

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while int(self.rfile.readline(), 16):
                self.rfile.readline()
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        status, kind, content = self.server.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.requests, server.answers = [], []
    server.url = f"http://127.0.0.1:{server.server_address[1]}/CANARY"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


JSON = "application/dicom+json"


def rows(*found):
    """An answer of QIDO-RS."""
    return json.dumps(
        [{tag: {"vr": "UI", "Value": [value]} for tag, value in elements} for elements in found]
    ).encode()


def page(*elements):
    return rows(elements)


def failure(reason):
    return json.dumps(
        {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}
    ).encode()


class TestStowClient:
    def client(self, web, **more):
        return StowClient(Destination(name="web", kind="stow", url=web.url, **more))

    def test_credentials_go_along(self, web, tmp_path):
        (tmp_path / "password").write_text("secret\n")
        (tmp_path / "token").write_text("abc\n")
        web.answers = [(200, JSON, b"{}"), (200, JSON, b"{}")]
        self.client(web, user="anna", password_file=tmp_path / "password").deliver(STUDY)
        self.client(web, token_file=tmp_path / "token").deliver(STUDY)
        assert [headers["Authorization"] for _, _, headers, _ in web.requests] == [
            "Basic YW5uYTpzZWNyZXQ=",
            "Bearer abc",
        ]
        with pytest.raises(ConfigError, match="password or token cannot be read"):
            self.client(web, token_file=tmp_path / "missing")

    def test_what_is_there_already_is_no_failure(self, web):
        web.answers = [(202, JSON, failure(0x0111)), (409, JSON, failure(0x0111))]
        assert self.client(web).deliver(STUDY) == 2
        assert self.client(web).deliver(STUDY) == 2

    @pytest.mark.parametrize(
        ("answer", "down", "said"),
        [
            ((202, JSON, failure(0xC122)), False, "refused 1 of 2 objects (reason C122)"),
            ((409, JSON, failure(0xA700)), False, "answered 409"),
            ((409, "text/plain", b"no"), False, "answered 409"),
            ((400, JSON, b"{}"), False, "answered 400"),
            ((401, JSON, b""), True, "answered 401"),
            ((429, JSON, b""), True, "answered 429"),
            ((503, JSON, b""), True, "answered 503"),
        ],
    )
    def test_failures_do_not_quote_the_address(self, web, answer, down, said):
        web.answers = [answer]
        with pytest.raises(DeliveryError) as caught:
            self.client(web).deliver(STUDY)
        assert said in caught.value.problem
        assert caught.value.destination_down is down
        assert "CANARY" not in str(caught.value)

    def test_nobody_there(self):
        client = StowClient(
            Destination(name="web", kind="stow", url=f"http://127.0.0.1:{free_port()}/CANARY")
        )
        for ask in (client.check, lambda: client.deliver(STUDY)):
            with pytest.raises(DeliveryError, match="cannot be reached") as caught:
                ask()
            assert caught.value.destination_down
            assert "CANARY" not in str(caught.value)

    def test_an_address_that_is_none(self):
        destination = Destination(name="web", kind="stow", url="http://127.0.0.1")
        with pytest.raises(ConfigError, match="not the address"):
            StowClient(destination.model_copy(update={"url": "nowhere"}))


class TestFhirClient:
    def client(self, web):
        return FhirClient(Destination(name="records", kind="fhir", url=web.url), identities=False)

    def test_a_transaction_is_posted_to_the_base_address(self, web):
        web.answers = [(200, "application/fhir+json", b"{}")] * 2
        assert self.client(web).deliver(STUDY) == 3
        assert self.client(web).deliver(STUDY) == 3
        (first, second) = web.requests
        assert first[:2] == ("POST", "/CANARY")
        assert first[2]["Content-Type"] == "application/fhir+json"
        assert first[3] == second[3]  # a retry is the same, and every entry is created only once
        bundle = json.loads(first[3])
        assert bundle["type"] == "transaction"
        assert all(entry["request"]["ifNoneExist"] for entry in bundle["entry"])
        assert "Doe" not in first[3].decode()

    def test_a_server_is_asked_for_its_capabilities(self, web):
        web.answers = [(200, "application/fhir+json", b"{}")]
        self.client(web).check()
        assert web.requests[0][:2] == ("GET", "/CANARY/metadata")

    @pytest.mark.parametrize(("status", "down"), [(422, False), (500, True), (403, True)])
    def test_failures(self, web, status, down):
        web.answers = [(status, "application/fhir+json", b"{}")] * 2
        client = self.client(web)
        for ask in (client.check, lambda: client.deliver(STUDY)):
            with pytest.raises(DeliveryError, match=f"answered {status}") as caught:
                ask()
            assert caught.value.destination_down is down
            assert "CANARY" not in str(caught.value)


class TestSinglePart:
    KIND = 'multipart/related; type="application/dicom"; boundary="b-1"'

    def test_one_part_whatever_bytes_it_has(self):
        content = bytes(range(256)) + b"\r\n--b-\r\n\r\n--x\r\n"
        body = b"--b-1\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b-1--\r\n"
        assert single_part(self.KIND, body) == content
        assert single_part(self.KIND, b"preamble\r\n" + body) == content

    def test_a_body_without_parts_is_the_object(self):
        assert single_part("application/dicom", b"DICM") == b"DICM"
        assert single_part("", b"DICM") == b"DICM"

    @pytest.mark.parametrize("parts", [0, 2])
    def test_another_number_of_parts_is_an_error(self, parts):
        body = b"--b-1\r\n\r\nx\r\n" * parts + b"--b-1--"
        with pytest.raises(DeliveryError, match=f"sent {parts} objects"):
            single_part(self.KIND, body)


class TestWebSource:
    def test_a_query_is_a_range_of_dates_and_what_was_given(self):
        from datetime import date

        assert study_query({"PatientID": "7"}, None) == {"PatientID": "7"}
        assert study_query({"PatientID": "7"}, date(2024, 2, 29)) == {
            "PatientID": "7",
            "StudyDate": "20240229-",
        }

    def test_an_address_is_needed(self):
        with pytest.raises(ConfigError, match=r"dicomweb\.url is not set"):
            WebSource(DicomwebSettings(), 1)

    def test_a_server_that_knows_no_pages_is_asked_no_longer_than_it_has_news(self, web):
        page = json.dumps(
            [{"0020000D": {"vr": "UI", "Value": [f"1.{number}"]}} for number in range(3)]
        ).encode()
        web.answers = [(200, JSON, page), *[(200, JSON, b"[]")] * 3, (200, JSON, page)]
        assert list(WebSource(DicomwebSettings(url=web.url), 1).find({}, [CR])) == []
        assert len(web.requests) == 5

    def test_a_film_that_is_too_large_is_not_taken(self, web):
        web.answers = [(200, "application/dicom", bytes(2 << 20))]
        with pytest.raises(DeliveryError, match="larger than allowed"):
            WebSource(DicomwebSettings(url=web.url), 1).fetch(FilmReference("1", "2", "3"))

    def test_errors_name_neither_patient_nor_study(self, web):
        source = WebSource(DicomwebSettings(url=web.url), 1)
        web.answers = [(400, JSON, b""), (404, JSON, b"")]
        for ask in (
            lambda: list(source.find({"PatientName": "CANARY"}, [CR])),
            lambda: source.fetch(FilmReference("CANARY", "2", "3")),
        ):
            with pytest.raises(DeliveryError) as caught:
                ask()
            assert "CANARY" not in str(caught.value)
            assert caught.value.__cause__ is None

    def test_what_is_not_given_or_is_empty_is_counted_and_left(self, web, tmp_path):
        store = make_store(tmp_path)
        source = WebSource(DicomwebSettings(url=web.url), 1)
        listed = [
            (200, JSON, page(("0020000D", "1.1"))),
            (200, JSON, page(("0020000E", "1.2"), ("00080060", "CR"))),
            (200, JSON, rows(*[(("00080018", f"1.{number}"), ("00080016", CR)) for number in range(1, 6)])),
        ]
        films = [
            (500, "text/plain", b""),
            (200, "application/dicom", b""),
            (404, "text/plain", b""),
            (503, "text/plain", b""),
            (200, "application/dicom", b"film"),
        ]
        web.answers = [*listed, *films, (200, JSON, b"[]")]
        found = pull(store, source, {})
        assert (found.taken, found.known, found.failed) == (1, 0, 4)
        assert web.answers == []

        web.answers = [*listed, (401, "text/plain", b"")]
        with pytest.raises(DeliveryError, match="answered 401"):  # it will not give the others, either
            pull(store, source, {})
        web.answers = [(503, "text/plain", b"")]
        with pytest.raises(DeliveryError, match="answered 503"):
            pull(store, source, {})
        store.close()

    def test_a_server_that_goes_away_ends_the_pull(self, web, tmp_path):
        store = make_store(tmp_path)
        source = WebSource(DicomwebSettings(url=web.url), 1)
        found = iter([FilmReference("1", "2", "3.1"), FilmReference("1", "2", "3.2")])
        source.find = lambda query, classes: found
        source._base = f"http://127.0.0.1:{free_port()}"
        with pytest.raises(DeliveryError, match="cannot be reached"):
            pull(store, source, {})
        assert len(list(found)) == 1
        store.close()

    @pytest.fixture(scope="class")
    @classmethod
    def orthanc(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("orthanc")
        with Orthanc(folder / "pacs") as found:
            kinds = (uid.ExplicitVRLittleEndian, uid.JPEGLosslessSV1, uid.ImplicitVRLittleEndian)
            for number, syntax in enumerate(kinds, 1):
                found.upload(film_file(folder, number, syntax).read_bytes())
            other = {
                "StudyInstanceUID": "1.2.826.0.1.99999.8",
                "SeriesInstanceUID": "1.2.826.0.1.99999.8.1",
                "PatientID": "OTHER",
                "StudyDate": "20200101",
            }
            found.upload(film_file(folder, 4, SOPClassUID=DX, Modality="DX", **other).read_bytes())
            ct = {
                "SOPClassUID": uid.CTImageStorage,
                "Modality": "CT",
                "SeriesInstanceUID": "1.2.826.0.1.99999.7.2",
            }
            found.upload(film_file(folder, 5, **ct).read_bytes())
            found.originals = {number: (folder / f"{number}.dcm").read_bytes() for number in range(1, 6)}
            yield found

    @needs_orthanc
    def test_films_come_as_the_server_has_them_each_one_once(self, orthanc, tmp_path):
        store = make_store(tmp_path)
        source = WebSource(DicomwebSettings(url=orthanc.dicomweb), 10)

        first = pull(store, source, {"PatientID": "CANARY-4711"}, limit=2)
        rest = pull(store, source, {"PatientID": "CANARY-4711"})
        again = pull(store, source, {"PatientID": "CANARY-4711"})
        others = pull(store, source, {"ModalitiesInStudy": "DX"})
        nobody = pull(store, source, {"PatientID": "NOBODY"})

        assert [(done.taken, done.known, done.failed) for done in (first, rest, again, others, nobody)] == [
            (2, 0, 0), (1, 2, 0), (0, 3, 0), (1, 0, 0), (0, 0, 0),
        ]  # fmt: skip
        with store.read() as session:
            films = session.query(Film).all()
        contents = {store.blobs.get("received", found.id) for found in films}
        assert contents == {orthanc.originals[number] for number in (1, 2, 3, 4)}
        assert {found.source for found in films} == {"dicomweb"}
        store.close()

    @needs_orthanc
    def test_dates_and_classes_choose(self, orthanc):
        from datetime import date

        source = WebSource(DicomwebSettings(url=orthanc.dicomweb), 10)
        since = study_query({}, date(2021, 1, 1))
        assert {found.instance_uid[-2:] for found in source.find(since, [CR, DX])} == {".1", ".2", ".3"}
        assert {found.instance_uid[-2:] for found in source.find({}, [CR, DX])} == {".1", ".2", ".3", ".4"}
        assert [found.instance_uid[-2:] for found in source.find({}, [DX])] == [".4"]
        assert {found.instance_uid[-2:] for found in source.find({}, [uid.CTImageStorage])} == {".5"}

    @needs_orthanc
    def test_results_are_stored_by_stow_and_are_the_same_when_read_again(self, orthanc):
        client = StowClient(
            Destination(name="web", kind="stow", url=orthanc.dicomweb, objects=("sr", "sc", "gsps"))
        )
        client.check()
        assert client.deliver(STUDY) == 3
        assert client.deliver(STUDY) == 3
        expected = {made.SOPInstanceUID: made for made in dicom_objects(STUDY.films[0], ("sr", "sc", "gsps"))}
        found = [row for row in orthanc.tags() if row["SOPInstanceUID"] in expected]
        assert len(found) == 3
        for row in found:
            assert parsed(orthanc.file(row["ID"])) == encoded(expected[row["SOPInstanceUID"]])


def encoded(dataset):
    """A data set as it is once it was written: in memory, numbers are exact and dates are texts."""
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return parsed(content.getvalue())
