"""The DICOM node, asked by pynetdicom, by DCMTK and by rude peers."""

import errno
import logging
import socket
import ssl
import struct
import subprocess
import time

import pytest
from pydicom import uid
from pynetdicom.dsutils import encode
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.dicom.association import VERIFICATION, film_transfer_syntaxes
from pneumoscope_clinic.dicom.node import Node
from pneumoscope_clinic.store.tables import AuditEntry, Film, Job
from tests.clinic.dicom_peers import (
    CANARIES,
    CR,
    DX,
    SC,
    association,
    film,
    film_file,
    parsed,
    running_node,
)
from tests.clinic.orthanc import dcmtk, needs_dcmtk
from tests.clinic.stores import make_store


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node with the default settings; each test sends images of its own."""
    with running_node(tmp_path_factory.mktemp("node")) as found:
        yield found


def send(port, dataset, **options):
    """Status of one C-STORE."""
    with association(
        port, dataset.SOPClassUID, syntaxes=[dataset.file_meta.TransferSyntaxUID], **options
    ) as sender:
        assert sender.is_established
        return sender.send_c_store(dataset).Status


def films(store, number):
    with store.read() as session:
        key = store.cipher.pseudonym(f"1.2.826.0.1.99999.{number}", "instance")
        return session.scalars(select(Film).where(Film.instance_key == key)).all()


def test_echo(node):
    with association(node[1], VERIFICATION) as sender:
        assert sender.send_c_echo().Status == 0x0000


def test_a_film_is_stored_as_it_was_sent_and_queued(node):
    store, port = node
    dataset = film(11)

    assert send(port, dataset) == 0x0000

    (found,) = films(store, 11)
    content = store.blobs.get("received", found.id)
    assert content[128:132] == b"DICM"
    assert content.endswith(encode(dataset, False, True))
    stored = parsed(content)
    assert stored.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    assert stored.file_meta.MediaStorageSOPInstanceUID == "1.2.826.0.1.99999.11"
    assert stored == dataset
    assert (found.source, found.size, found.identity) == ("dimse", len(content), None)
    with store.read() as session:
        (job,) = session.scalars(select(Job).where(Job.film_id == found.id)).all()
        (entry,) = session.scalars(select(AuditEntry).where(AuditEntry.object == found.id)).all()
    assert (job.kind, job.state) == ("examine", "waiting")
    assert (entry.actor, entry.action) == ("dicom:MODALITY", "film.received")


def test_a_film_that_is_sent_again_is_there_once(node):
    store, port = node

    assert [send(port, film(12)) for _ in range(3)] == [0x0000] * 3

    assert len(films(store, 12)) == 1


def test_every_transfer_syntax_that_can_be_decoded_is_accepted_native_ones_first(node):
    port = node[1]
    for syntax in film_transfer_syntaxes():
        for sop_class in (CR, DX):
            with association(port, sop_class, syntaxes=[syntax]) as sender:
                assert sender.is_established
                assert [cx.transfer_syntax for cx in sender.accepted_contexts] == [[syntax]]
    with association(
        port, CR, syntaxes=[uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.ImplicitVRLittleEndian]
    ) as sender:
        assert sender.accepted_contexts[0].transfer_syntax == [uid.ImplicitVRLittleEndian]


def test_what_is_no_film_is_refused_with_its_context(node, tmp_path):
    refused = [SC, uid.CTImageStorage, uid.DigitalXRayImageStorageForProcessing, uid.EncapsulatedPDFStorage]
    with association(node[1], *refused, VERIFICATION) as sender:
        assert [cx.abstract_syntax for cx in sender.accepted_contexts] == [VERIFICATION]
        assert {cx.result for cx in sender.rejected_contexts} == {0x03}  # abstract syntax not supported

    with running_node(tmp_path, dicom__secondary_capture=True) as (_, port), association(port, SC) as sender:
        assert [cx.abstract_syntax for cx in sender.accepted_contexts] == [SC]


def test_an_object_of_another_class_than_its_context_is_refused(node):
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE

    store, port = node
    with association(port, CR, syntaxes=[uid.ExplicitVRLittleEndian]) as sender:
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = DX, "1.2.826.0.1.99999.13"
        request.DataSet = BytesIO(encode(film(13, SOPClassUID=DX), False, True))
        sender._reactor_checkpoint.clear()
        while not sender._is_paused:
            time.sleep(0.001)
        sender.dimse.send_msg(request, 1)
        _, answer = sender.dimse.get_msg(block=True)
        sender._reactor_checkpoint.set()
    assert answer.Status == 0xA900
    assert films(store, 13) == []


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "no space"), OperationalError("insert", {}, Exception("disk full"))]
)
def test_success_is_not_said_before_the_film_is_kept(node, monkeypatch, failure, caplog):
    store, port = node
    number = 14 if isinstance(failure, OSError) else 15

    def full(*_):
        raise failure

    with monkeypatch.context() as patch, caplog.at_level(logging.DEBUG):
        patch.setattr(store.blobs, "put", full)
        assert send(port, film(number)) == 0xA700
    assert films(store, number) == []
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        f"an image could not be stored: {type(failure).__name__}"
    ]

    assert send(port, film(number)) == 0x0000
    assert len(films(store, number)) == 1


def test_an_error_of_ours_is_no_success(node, monkeypatch):
    store, port = node
    with monkeypatch.context() as patch:
        patch.setattr(store.blobs, "put", lambda *_: 1 / 0)
        assert send(port, film(16)) >> 12 == 0xC
    assert films(store, 16) == []


def test_nothing_of_the_patient_is_logged_and_nothing_by_libraries(node, caplog):
    heard = []
    handler = logging.Handler()
    handler.emit = heard.append
    logging.getLogger().addHandler(handler)
    try:
        with caplog.at_level(logging.DEBUG):
            assert send(node[1], film(17)) == 0x0000
    finally:
        logging.getLogger().removeHandler(handler)
    said = [record.getMessage() for record in heard]
    assert [text for text in said if "received" in text] == said[-1:]
    assert not [text for text in CANARIES if text in " ".join(said)]
    assert {record.name.partition(".")[0] for record in heard} == {"pneumoscope_clinic"}


@needs_dcmtk
def test_dcmtk(node, tmp_path):
    store, port = node
    for number, syntax, flag in ((21, uid.ExplicitVRLittleEndian, "-xe"), (22, uid.JPEGLosslessSV1, "-xs"),
                                 (23, uid.JPEG2000Lossless, "-xv"), (24, uid.RLELossless, "-xr"),
                                 (25, uid.DeflatedExplicitVRLittleEndian, "-xd")):  # fmt: skip
        file = film_file(tmp_path, number, syntax)
        subprocess.run(
            [dcmtk("storescu"), flag, "-aec", "PNEUMOSCOPE", "127.0.0.1", str(port), file], check=True
        )
        (found,) = films(store, number)
        stored = parsed(store.blobs.get("received", found.id))
        assert stored.file_meta.TransferSyntaxUID == syntax
        assert stored == parsed(file.read_bytes())
    answer = subprocess.run([dcmtk("echoscu"), "-v", "127.0.0.1", str(port)], capture_output=True, text=True)
    assert answer.returncode == 0
    assert "Received Echo Response (Success)" in answer.stdout + answer.stderr


def test_peers_are_told_apart_by_title_and_called_title(tmp_path):
    peers = [{"ae_title": "CR1", "address": "127.0.0.1"}, {"ae_title": "CR2", "address": "10.0.0.0/8"}]
    with running_node(tmp_path, dicom__peers=peers) as (_, port):
        with association(port, VERIFICATION, title="CR1") as sender:
            assert sender.is_established
        for title, called in (("CR2", "PNEUMOSCOPE"), ("MODALITY", "PNEUMOSCOPE"), ("CR1", "OTHER")):
            with association(port, VERIFICATION, title=title, called=called) as sender:
                assert sender.is_rejected
                answer = sender.acceptor.primitive
                assert (answer.result, answer.result_source) == (1, 1)
                assert answer.diagnostic == (7 if called == "OTHER" else 3)


def test_a_stranger_hears_nothing_at_all(tmp_path):
    with (
        running_node(tmp_path, dicom__peers=[{"ae_title": "CR1", "address": "10.0.0.1"}]) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=5) as stranger,
    ):
        stranger.sendall(b"\x01\x00")
        assert closed(stranger)


def test_too_many_associations_are_rejected_for_now(tmp_path):
    with running_node(tmp_path, dicom__max_associations=2) as (_, port):
        both = association(port, VERIFICATION), association(port, VERIFICATION)
        with both[0], both[1], association(port, VERIFICATION) as third:
            assert third.is_rejected
            answer = third.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        assert established_again(port)


def test_connections_that_say_nothing_cannot_fill_the_node(tmp_path):
    with running_node(tmp_path, dicom__max_associations=2, dicom__timeout_seconds=2) as (_, port):
        idle = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(10)]
        refused = [connection for connection in idle if closed(connection, 0.3)]
        silent = [closed(connection, 6) for connection in idle]
        for connection in idle:
            connection.close()
        assert len(refused) == 6  # twice the associations are let in
        assert all(silent)
        assert established_again(port)


def test_an_object_that_is_too_large_ends_the_association(tmp_path):
    with running_node(tmp_path, server__max_upload_mb=0.02) as (store, port):
        with association(port, CR, syntaxes=[uid.ExplicitVRLittleEndian]) as sender:
            assert sender.send_c_store(film(31)).Status == 0x0000
            assert sender.send_c_store(film(32, ImageComments="x" * 10000)).get("Status") is None
        with store.read() as session:
            assert len(session.scalars(select(Film)).all()) == 1


@pytest.mark.parametrize("announced", [0xFFFFFFFF, 1 << 22])
def test_a_length_that_is_announced_is_not_believed(node, announced):
    with socket.create_connection(("127.0.0.1", node[1]), timeout=5) as rude:
        rude.sendall(struct.pack(">BBL", 4, 0, announced))
        assert closed(rude)


def test_a_peer_that_sends_a_byte_now_and_then_is_cut_off(tmp_path):
    with (
        running_node(tmp_path, dicom__timeout_seconds=0.5, dicom__receive_seconds=1.5) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=5) as slow,
    ):
        start = time.monotonic()
        slow.sendall(struct.pack(">BBL", 1, 0, 1000))
        while time.monotonic() - start < 20:
            try:
                slow.sendall(b"\0")
            except OSError:
                break
            if closed(slow, 0.2):
                break
        assert 1 < time.monotonic() - start < 19


def established_again(port, within=10.0):
    """Whether an association is let in, as soon as the node has noticed that the others have ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        with association(port, VERIFICATION) as sender:
            if sender.is_established:
                return True
        time.sleep(0.05)
    return False


def closed(connection, within=5.0):
    """Whether the other side closes or resets the connection in so many seconds, whatever it says."""
    connection.settimeout(within)
    try:
        while connection.recv(1000):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_a_port_that_is_taken_is_an_error_of_the_configuration(node, tmp_path):
    store = make_store(tmp_path, dicom__port=node[1])
    with pytest.raises(ConfigError, match="cannot listen"):
        Node(store)
    store.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"))


class TestTls:
    def client(self, files, name=None):
        context = ssl.create_default_context(cafile=files["ca.pem"])
        if name is not None:
            context.load_cert_chain(files[f"{name}.pem"], files[f"{name}.key"])
        return (context, "localhost")

    def settings(self, files, **more):
        return {
            "dicom__tls_certificate": str(files["node.pem"]),
            "dicom__tls_key": str(files["node.key"]),
            **more,
        }

    def test_films_come_through_tls(self, files, tmp_path):
        with running_node(tmp_path, **self.settings(files)) as (store, port):
            assert send(port, film(51), tls_args=self.client(files)) == 0x0000
            assert len(films(store, 51)) == 1
            with association(port, VERIFICATION) as plain:
                assert not plain.is_established

    def test_a_peer_without_our_certificate_is_refused(self, files, tmp_path):
        with running_node(tmp_path, **self.settings(files, dicom__tls_ca=str(files["ca.pem"]))) as (_, port):
            with association(port, VERIFICATION, tls_args=self.client(files, "peer")) as known:
                assert known.is_established
            for stranger in (None, "stranger"):
                with association(port, VERIFICATION, tls_args=self.client(files, stranger)) as unknown:
                    assert not unknown.is_established

    def test_a_handshake_that_never_ends_holds_nobody_up(self, files, tmp_path):
        with (
            running_node(tmp_path, **self.settings(files)) as (_, port),
            socket.create_connection(("127.0.0.1", port), timeout=5),
            association(port, VERIFICATION, tls_args=self.client(files)) as sender,
        ):
            assert sender.is_established

    def test_files_that_are_no_certificates_are_named(self, files, tmp_path):
        bad, lost = tmp_path / "bad.pem", tmp_path / "lost.pem"
        bad.write_text("nothing")
        for settings in (
            {"dicom__tls_certificate": str(bad)},
            {"dicom__tls_certificate": str(lost)},
            {**self.settings(files), "dicom__tls_ca": str(bad)},
            {"dicom__tls_key": str(files["node.key"])},
        ):
            lost.touch()
            store = make_store(tmp_path, dicom__port=0, **settings)
            lost.unlink()
            with pytest.raises(ConfigError, match="tls_"):
                Node(store)
            store.close()


def certificates(folder):
    """A certificate authority, certificates of node and peer signed by it, and one that signed itself."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def make(text, issuer=None, authority=False):
        key = ec.generate_private_key(ec.SECP256R1())
        signer_name, signer_key = (name(text), key) if issuer is None else issuer
        day = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name(text))
            .issuer_name(signer_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(day - datetime.timedelta(days=1))
            .not_valid_after(day + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .sign(signer_key, hashes.SHA256())
        )
        pem, secret = folder / f"{text}.pem", folder / f"{text}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return name(text), key

    authority = make("ca", authority=True)
    make("node", authority)
    make("peer", authority)
    make("stranger")
    return {file.name: file for file in folder.iterdir()}
