"""``pneumoscope clinic``: users, tokens, bundles, settings, backup, as an administrator types them."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from pneumoscope.cli.main import main
from pneumoscope_clinic.settings import load_settings
from pneumoscope_clinic.store import accounts, audit_log, viewers
from pneumoscope_clinic.store.database import Store, open_store
from pneumoscope_clinic.store.tables import AuditEntry, Study
from tests.clinic.stores import add_bundle, add_feedback, add_film
from tests.films import write_film
from tests.tiny_bundle import write_tiny_bundle

PASSWORD = "a long enough password"


class Terminal:
    """Runs commands on an installation; ``out`` and ``err`` are what the last one said."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._patch, self._capsys = folder, monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *words: str, typed: str = "") -> int:
        """The exit code of ``pneumoscope clinic ...``; ``typed`` comes on standard input."""
        return self.run("clinic", *words, typed=typed)

    def run(self, *words: str, typed: str = "") -> int:
        """The exit code of ``pneumoscope ...``."""
        self._patch.setattr(sys, "stdin", io.StringIO(typed))
        self._patch.setattr(sys, "argv", ["pneumoscope", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        self.out, self.err = self._capsys.readouterr()
        return int(caught.value.code or 0)

    def store(self) -> Store:
        return open_store(load_settings(None, {"data_dir": str(self.folder / "data")}, {}))

    def has_admin(self) -> None:
        """Make the administrator ada, who has no password."""
        store = self.store()
        accounts.create_user(store, "ada", None, "admin", "setup")
        store.close()

    def actions(self) -> list[tuple[str, str]]:
        """Actions and objects in the audit log."""
        store = self.store()
        with store.read() as session:
            rows = session.scalars(select(AuditEntry).order_by(AuditEntry.id)).all()
        assert audit_log.verify(store).broken_at is None
        assert all(row.actor.startswith(("terminal:", "user:", "setup")) for row in rows)
        store.close()
        return [(row.action, row.object) for row in rows]


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    for name in ("PNEUMOSCOPE_CONFIG",):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PNEUMOSCOPE_CLINIC__DATA_DIR", str(tmp_path / "data"))
    return Terminal(tmp_path, monkeypatch, capsys)


def test_users(clinic: Terminal) -> None:
    clinic.store().close()
    assert clinic("users", "add", "ada", "--role", "admin", typed=PASSWORD + "\n") == 0
    assert clinic.out == "ada may log in as admin.\n"
    assert clinic("users", "add", "bob", typed=PASSWORD) == 0
    assert clinic("users", "list") == 0
    assert clinic.out == "ada: admin\nbob: reader\n"
    assert clinic("users", "change", "bob", "--role", "reviewer", "--disable") == 0
    assert clinic("users", "list") == 0
    assert clinic.out == "ada: admin\nbob: reviewer, disabled\n"
    assert clinic("users", "change", "bob", "--enable") == 0
    assert clinic("users", "password", "bob", typed="another long password\n") == 0

    store = clinic.store()
    assert accounts.authenticate(store, "bob", "another long password", "test").role == "reviewer"
    store.close()
    assert [action for action, _ in clinic.actions()] == [
        "user.created", "user.created", "user.changed", "user.changed", "user.password", "login",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "typed", "said"),
    [
        (("users", "add", "eve"), "short", "the password is not allowed"),
        (("users", "add", "eve"), "", "the password is not allowed"),
        (("users", "add", "eve", "--role", "boss"), PASSWORD, "no role 'boss'"),
        (("users", "add", "ada"), PASSWORD, "there is a user 'ada' already"),
        (("users", "change", "nobody", "--disable"), "", "there is no user 'nobody'"),
        (("users", "change", "ada", "--disable"), "", "no administrator would be left"),
        (("users", "change", "ada", "--role", "reader"), "", "no administrator would be left"),
        (("users", "password", "nobody"), PASSWORD, "there is no user 'nobody'"),
        (("tokens", "add", "pacs", "--user", "nobody"), "", "there is no user 'nobody'"),
        (("tokens", "add", "pacs", "--user", "ada", "--scope", "everything"), "", "not a token"),
        (("tokens", "revoke", "7"), "", "there is no such token"),
        (("bundles", "activate", "no-such-bundle"), "", "no-such-bundle"),
        (("bundles", "rollback"), "", "no earlier bundle was active here"),
        (("delete-study", "0" * 32), "", "there is no such study"),
        (("restore", "nothing"), "", "not a backup"),
    ],
)  # fmt: skip
def test_wrong_input(clinic: Terminal, words: tuple[str, ...], typed: str, said: str) -> None:
    clinic.has_admin()
    clinic("bundles", "list")
    before = clinic.actions()

    assert clinic(*words, typed=typed) == 2
    assert said in clinic.err
    assert "remedy" in clinic.err or "expected" in clinic.err or "there is no" in clinic.err
    assert "Traceback" not in clinic.err
    assert clinic.out == ""
    assert clinic.actions() == before


def test_tokens(clinic: Terminal) -> None:
    clinic.has_admin()
    assert clinic("tokens", "add", "pacs", "--user", "ada") == 0
    secret = clinic.out.strip()
    assert re.fullmatch(r"pns_[\w-]{43}", secret)
    assert clinic("tokens", "add", "research", "--user", "ada", "--scope", "read", "--days", "30") == 0

    store = clinic.store()
    viewer = viewers.token_viewer(store, secret)
    assert viewer is not None
    assert (viewer.name, viewer.scopes) == ("ada", frozenset({"examine", "read"}))
    assert clinic("tokens", "list") == 0
    lines = clinic.out.splitlines()
    assert lines[0] == "1: pacs, of ada, examine read"
    assert re.fullmatch(r"2: research, of ada, read, until \d{4}-\d\d-\d\d", lines[1])
    assert secret not in clinic.out

    assert clinic("tokens", "revoke", "1") == 0
    assert viewers.token_viewer(store, secret) is None
    store.close()
    assert clinic("tokens", "list") == 0
    assert clinic.out.splitlines() == lines[1:]


def test_bundles(clinic: Terminal, tmp_path: Path) -> None:
    first = write_tiny_bundle(tmp_path / "first")
    second = write_tiny_bundle(tmp_path / "second", name="second")
    clinic.store().close()

    assert clinic("bundles", "activate", str(first.directory)) == 0
    assert clinic.out == f"{first.id} is in force.\n"
    assert clinic("bundles", "activate", str(second.directory)) == 0
    assert clinic("bundles", "list") == 0
    lines = clinic.out.splitlines()
    assert [line.split()[2] for line in lines] == [second.id, first.id]
    assert lines[0].endswith(", in force")
    assert "in force" not in lines[1]
    assert clinic("bundles", "rollback") == 0
    assert clinic.out == f"{first.id} is in force.\n"
    assert clinic("bundles", "rollback") == 0
    assert clinic.out == f"{second.id} is in force.\n"
    assert clinic.actions() == [("bundle.activated", one.id) for one in (first, second, first, second)]


def test_an_altered_bundle_is_not_activated(clinic: Terminal, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "altered")
    (bundle.directory / "model.onnx").write_bytes(b"something else")
    clinic.store().close()

    assert clinic("bundles", "activate", str(bundle.directory)) == 2
    assert "model.onnx" in clinic.err


def test_settings_without_secrets(clinic: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text(
        'language = "fr"\n[database]\nurl = "postgresql+psycopg://clinic:canary@db/clinic"\n'
        '[server]\nport = 80\n[privacy]\nkey_file = "/run/key"\n'
    )
    monkeypatch.setenv("PNEUMOSCOPE_CLINIC__SERVER__PORT", "81")

    assert clinic("settings", "--config", str(file)) == 0
    shown = json.loads(clinic.out)
    assert "canary" not in clinic.out
    assert shown["language"] == "fr"
    assert shown["server"]["port"] == 81
    assert shown["privacy"]["key_file"] == "/run/key"
    assert shown["database"]["url"] == "**********"
    assert not (tmp_path / "data").exists()


def test_unknown_settings(clinic: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text("[server]\nprot = 80\n")

    assert clinic("settings", "--config", str(file)) == 2
    assert "server.prot" in clinic.err


def test_backup_and_restore(clinic: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = clinic.store()
    films = [add_film(store, content=b"image %d" % number) for number in range(3)]
    store.close()
    folder = tmp_path / "backup"

    assert clinic("backup", str(folder)) == 0
    assert clinic.out.startswith(f"{folder}: 3 files and the database of ")
    assert "whoever has the folder can read the images" in clinic.out
    head = clinic.out.splitlines()[1].rpartition(" ")[2]
    assert clinic("restore", str(folder)) == 2
    assert "the data directory is not empty" in clinic.err

    monkeypatch.setenv("PNEUMOSCOPE_CLINIC__DATA_DIR", str(tmp_path / "trial"))
    assert clinic("restore", str(folder)) == 0
    assert clinic.out == f"{tmp_path / 'trial'}: 3 of 3 images readable.\nAudit log: 1 rows, whole.\n"
    restored = open_store(load_settings(None, {"data_dir": str(tmp_path / "trial")}, {}))
    assert restored.blobs.get("films", films[0]) == b"image 0"
    assert audit_log.verify(restored, head).broken_at is None
    restored.close()

    (folder / "blobs" / "films" / films[1][:2] / films[1]).unlink()
    monkeypatch.setenv("PNEUMOSCOPE_CLINIC__DATA_DIR", str(tmp_path / "damaged"))
    assert clinic("restore", str(folder)) == 1
    assert f"missing or damaged: {films[1]}\n" in clinic.out
    monkeypatch.setenv("PNEUMOSCOPE_CLINIC__DATA_DIR", str(tmp_path / "data"))
    assert clinic("backup", str(folder), "--without-key") == 0
    assert "The key is not in it." in clinic.out


@pytest.mark.parametrize(
    "words",
    [
        ("clinic", "users", "list"),
        ("clinic", "bundles", "list"),
        ("clinic", "backup", "folder"),
        ("clinic", "retention"),
        ("clinic", "retry"),
        ("audit", "verify"),
        ("audit", "show"),
        ("monitor", "report"),
        ("data", "export-feedback", "folder", "--licence", "CC0"),
        ("pacs", "deliveries"),
        ("pacs", "pull", "--url", "http://127.0.0.1:9/"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("key_elsewhere", [False, True])
def test_a_mistyped_directory_is_no_new_installation(
    clinic: Terminal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    key_elsewhere: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    if key_elsewhere:
        (tmp_path / "key").write_text("0" * 64)
        monkeypatch.setenv("PNEUMOSCOPE_CLINIC__PRIVACY__KEY_FILE", str(tmp_path / "key"))
    before = sorted(tmp_path.rglob("*"))

    assert clinic.run(*words, "--data-dir", "typo") == 2
    assert clinic.err.startswith("error: there is no installation here\n  where: ")
    assert str(tmp_path / "typo") in clinic.err
    assert "pneumoscope serve" in clinic.err
    assert clinic.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_with_postgresql_an_installation_is_a_directory_and_a_key(
    clinic: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCOPE_CLINIC__DATABASE__URL", "postgresql+psycopg://127.0.0.1:9/nothing")
    assert clinic("users", "list") == 2
    assert "there is no installation here" in clinic.err
    (tmp_path / "data").mkdir()
    assert clinic("users", "list") == 2
    assert f"where: {tmp_path / 'data' / 'secret.key'}" in clinic.err
    (tmp_path / "data" / "secret.key").write_text("0" * 64)
    assert clinic("users", "list") == 2
    assert "the database cannot be used" in clinic.err


@pytest.mark.parametrize("folder", ["/proc/x", "file/x"])
@pytest.mark.parametrize(
    "words",
    [
        ("clinic", "backup", "{}"),
        ("monitor", "report", "--out", "{}"),
        ("data", "export-feedback", "{}", "--licence", "CC0"),
    ],
    ids=" ".join,
)
def test_a_folder_that_cannot_be_made(
    clinic: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    bundle = write_tiny_bundle(tmp_path / "bundle")
    store = clinic.store()
    add_bundle(store, bundle.id, location=str(bundle.directory))
    film = write_film(tmp_path / "film.png", 0.5).read_bytes()
    add_feedback(store, add_film(store, content=film), "normal", consent=True)
    store.close()

    assert clinic.run(*(word.format(folder) for word in words)) == 2
    assert "error: " in clinic.err
    assert folder in clinic.err
    assert "remedy" in clinic.err or "expected" in clinic.err
    assert "Traceback" not in clinic.err


def test_a_study_is_deleted_by_what_its_page_shows(clinic: Terminal) -> None:
    store = clinic.store()
    with store.write() as session:
        for start, end in (("1e3f369b", "0"), ("1e3f369b", "1"), ("ab_def01", "2")):
            session.add(Study(id=start + end * 24))
    store.close()

    for beginning, said in (
        ("1e3f369b", "several studies begin so"),
        ("1e3f369", "the id is too short"),
        ("", "the id is too short"),
        ("ffffffff", "there is no such study"),
        ("abcdef01", "there is no such study"),
        ("%%%%%%%%", "there is no such study"),
    ):
        assert clinic("delete-study", beginning) == 2
        assert said in clinic.err
        assert "remedy: give the whole id" in clinic.err
    assert clinic("delete-study", "1E3F369B0") == 0
    assert clinic.out == "1 studies deleted.\n"
    assert clinic("delete-study", "1e3f369b") == 0
    assert clinic("delete-study", "1e3f369b") == 2
