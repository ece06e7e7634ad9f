"""Storage commitment: what is stored is committed, and nothing else."""

import threading
import time

from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from sqlalchemy.exc import OperationalError

from pneumoscope_clinic.dicom import commitment
from pneumoscope_clinic.dicom.commitment import Commitments, Request, report, stored_instances
from pneumoscope_clinic.dicom.entity import STORAGE_COMMITMENT
from pneumoscope_clinic.store.tables import Film, Job
from pneumoscope_clinic.worker.intake import Sender, receive
from tests.clinic.dicom_peers import CR, DX, association, film, running_node
from tests.clinic.orthanc import free_port
from tests.clinic.stores import make_store

INSTANCE = "1.2.840.10008.1.20.1.1"
ROOT = "1.2.826.0.1.99999"


class Reports:
    """Handler of N-EVENT-REPORT that remembers what came."""

    def __init__(self, status=0x0000):
        self.status = status
        self.found = []
        self.came = threading.Event()

    def __call__(self, event):
        self.found.append((event.event_type, event.event_information, event.assoc.requestor.ae_title))
        self.came.set()
        return self.status, None


def ask(sender, references, transaction=f"{ROOT}.1000", action=1):
    """Status of N-ACTION."""
    content = Dataset()
    content.TransactionUID = transaction
    items = []
    for sop_class, instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        items.append(item)
    content.ReferencedSOPSequence = items
    return sender.send_n_action(content, action, STORAGE_COMMITMENT, INSTANCE)[0].Status


def pairs(sequence):
    return [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in sequence]


def test_what_is_stored_is_committed_on_the_association_that_asked(tmp_path):
    reports = Reports()
    with (
        running_node(tmp_path) as (_, port),
        association(
            port, CR, STORAGE_COMMITMENT, syntaxes=[uid.ExplicitVRLittleEndian],
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports)],
        ) as sender,
    ):  # fmt: skip
        assert sender.send_c_store(film(1)).Status == 0x0000
        assert sender.send_c_store(film(2)).Status == 0x0000
        assert ask(sender, [(CR, f"{ROOT}.1"), (CR, f"{ROOT}.2")]) == 0x0000
        assert reports.came.wait(60)
        time.sleep(0.2)  # our answer to the report
        assert sender.is_established
    ((event_type, content, _),) = reports.found
    assert event_type == 1
    assert content.TransactionUID == f"{ROOT}.1000"
    assert pairs(content.ReferencedSOPSequence) == [(CR, f"{ROOT}.1"), (CR, f"{ROOT}.2")]
    assert "FailedSOPSequence" not in content


def test_a_peer_with_a_port_gets_its_report_on_a_new_association(tmp_path):
    reports, port_of_peer = Reports(), free_port()
    entity = ApplicationEntity("CR1")
    entity.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
    connections = []
    handlers = [
        (evt.EVT_N_EVENT_REPORT, reports),
        (evt.EVT_CONN_OPEN, lambda event: connections.append(event.assoc.dul.socket.socket)),
    ]
    server = entity.start_server(("127.0.0.1", port_of_peer), block=False, evt_handlers=handlers)
    peers = [{"ae_title": "CR1", "address": "127.0.0.1", "port": port_of_peer}]
    try:
        with running_node(tmp_path, dicom__peers=peers) as (_, port):
            with association(
                port, CR, STORAGE_COMMITMENT, syntaxes=[uid.ExplicitVRLittleEndian], title="CR1"
            ) as sender:
                assert sender.send_c_store(film(1)).Status == 0x0000
                assert ask(sender, [(CR, f"{ROOT}.1"), (CR, f"{ROOT}.99"), ("1.2.3", f"{ROOT}.1")]) == 0x0000
            assert reports.came.wait(60)
    finally:
        server.shutdown()
        entity.shutdown()
        for connection in connections:
            connection.close()
    ((event_type, content, title),) = reports.found
    assert (event_type, title) == (2, "PNEUMOSCOPE")
    assert pairs(content.ReferencedSOPSequence) == [(CR, f"{ROOT}.1")]
    assert pairs(content.FailedSOPSequence) == [(CR, f"{ROOT}.99"), ("1.2.3", f"{ROOT}.1")]
    assert [item.FailureReason for item in content.FailedSOPSequence] == [0x0112, 0x0122]


def test_requests_that_make_no_sense_are_refused(tmp_path, monkeypatch):
    with running_node(tmp_path) as (_, port), association(port, STORAGE_COMMITMENT) as sender:
        assert ask(sender, [(CR, f"{ROOT}.1")], action=2) == 0x0123
        assert ask(sender, []) == 0x0115
        assert ask(sender, [(CR, f"{ROOT}.1")], transaction="") == 0x0115
        assert ask(sender, [(CR, "")]) == 0x0115
        assert sender.send_n_action(None, 1, STORAGE_COMMITMENT, INSTANCE)[0].Status == 0x0115
        monkeypatch.setattr(commitment, "_MOST_BYTES", 1000)
        assert ask(sender, [(CR, f"{ROOT}.{number}") for number in range(20)]) == 0x0213


PAUSES_S = (0.05, 0.05, 0.05, 0.05)


def away(number=1):
    """A peer at whose port nobody listens, as the configuration has it."""
    return {"ae_title": f"CR{number}", "address": "127.0.0.1", "port": free_port()}


def test_reports_that_do_not_get_through_need_one_thread_and_no_more_room(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(commitment, "_MOST_REPORTS", 20)
    with (
        running_node(tmp_path, dicom__peers=[away()]) as (_, port),
        association(port, STORAGE_COMMITMENT, title="CR1") as sender,
    ):
        before = threading.active_count()
        asked = [ask(sender, [(CR, f"{ROOT}.{number}")]) for number in range(30)]
        assert threading.active_count() <= before + 1  # that of the attempt which is under way
    assert asked == [0x0000] * 20 + [0x0213] * 10
    assert "a storage commitment request was refused: 20 reports wait" in caplog.text


def test_a_report_that_nobody_takes_is_given_up_and_the_others_follow(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(commitment, "_PAUSES_S", PAUSES_S)
    attempts = count_calls(monkeypatch, "_connect_and_send")
    reports, other = Reports(), {"ae_title": "CR2", "address": "127.0.0.1"}
    with running_node(tmp_path, dicom__peers=[away(), other]) as (_, port):
        with association(port, STORAGE_COMMITMENT, title="CR1") as sender:
            for number in range(10):
                assert ask(sender, [(CR, f"{ROOT}.{number}")]) == 0x0000
        with association(
            port, STORAGE_COMMITMENT, title="CR2", evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports)]
        ) as sender:
            assert ask(sender, [(CR, f"{ROOT}.77")]) == 0x0000
            assert reports.came.wait(60)
            time.sleep(0.2)
        await_(lambda: caplog.text.count("the report could not be sent") == 10)
    assert len(attempts) < 50  # reports that are due together share an attempt
    assert reports.found[0][1].FailedSOPSequence[0].ReferencedSOPInstanceUID == f"{ROOT}.77"
    assert ROOT not in caplog.text


def test_a_database_that_is_away_delays_a_report_and_loses_none(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(commitment, "_PAUSES_S", PAUSES_S)
    known, calls = commitment.stored_instances, []

    def sometimes(store, uids):
        calls.append(uids)
        if len(calls) < 3:
            raise OperationalError("SELECT", {}, Exception("CANARY"))
        return known(store, uids)

    monkeypatch.setattr(commitment, "stored_instances", sometimes)
    reports = Reports()
    with (
        running_node(tmp_path) as (_, port),
        association(
            port, STORAGE_COMMITMENT, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports)]
        ) as sender,
    ):  # fmt: skip
        assert ask(sender, [(CR, f"{ROOT}.1")]) == 0x0000
        assert reports.came.wait(60)
        time.sleep(0.2)
    assert len(calls) == 3
    assert caplog.text.count("a storage commitment report failed: OperationalError") == 2
    assert "CANARY" not in caplog.text


def count_calls(monkeypatch, name):
    """What a method of Commitments is called with from now on."""
    real, calls = getattr(Commitments, name), []

    def counted(self, *arguments):
        calls.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(Commitments, name, counted)
    return calls


def await_(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_films_that_are_not_kept_are_not_committed(tmp_path):
    store = make_store(tmp_path)
    sender = Sender("dicom:CR1", None, "dimse")
    waiting, failed, gone = (
        receive(store, bytes([number]), sender, instance_uid=f"{ROOT}.{number}").film_id
        for number in (1, 2, 3)
    )
    with store.write() as session:
        session.query(Job).filter_by(film_id=failed).one().state = "failed"
        session.get_one(Film, gone).pixels_gone = True

    uids = [f"{ROOT}.{number}" for number in range(1, 1200)]

    assert stored_instances(store, uids) == {f"{ROOT}.1"}
    assert stored_instances(store, []) == set()
    assert waiting != failed
    store.close()


def test_the_report_keeps_the_order_of_the_request():
    request = Request(f"{ROOT}.5", ((DX, "1.1"), (CR, "1.2"), ("1.9", "1.3"), (CR, "1.4")))

    event_type, content = report(request, {"1.4", "1.1", "1.3"}, (CR, DX))

    assert event_type == 2
    assert pairs(content.ReferencedSOPSequence) == [(DX, "1.1"), (CR, "1.4")]
    assert [(item.ReferencedSOPInstanceUID, item.FailureReason) for item in content.FailedSOPSequence] == [
        ("1.2", 0x0112),
        ("1.3", 0x0122),
    ]
