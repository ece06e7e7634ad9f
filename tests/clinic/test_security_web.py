"""What a browser or a program may send, and what comes back: nothing runs, nothing leaks, nothing breaks."""

import io
import logging
import re
import struct
import threading
import zlib
from urllib.parse import quote

import pytest
from PIL import Image
from sqlalchemy import func, select

from pneumoscope.core.errors import ForbiddenError, TooManyAttemptsError
from pneumoscope.imaging.decoding import collected_warnings
from pneumoscope_clinic.store import accounts
from pneumoscope_clinic.store.accounts import authenticate, create_user, user_named
from pneumoscope_clinic.store.database import open_store
from pneumoscope_clinic.store.tables import Alarm, Attempt, AuditEntry, Study, Token, User
from pneumoscope_clinic.store.viewers import create_token
from pneumoscope_clinic.web.limits import shown_path
from pneumoscope_clinic.worker.sandbox_tasks import encode_picture
from tests.clinic.films import dicom_film, jpeg_film, pixels, png_film
from tests.clinic.stores import make_store, new_postgres
from tests.clinic.test_security_access import account, bearer, filled, routes
from tests.clinic.web_clinic import PASSWORD, Browser, web_clinic, work

XSS = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg/onload=alert(3)>{{1337*1337}}${1337*1337}"
)
INJECTIONS = (
    "' OR '1'='1' --",
    "1; DROP TABLE films; --",
    '" UNION SELECT password_hash FROM users --',
    "%' \\'; --",
    "\0",
    "x" * 5000,
    "😀\ud7ff",
    "9" * 40,
    "../../etc/passwd",
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
LEAKS = re.compile(
    r"Traceback|File \"|site-packages|/home/|/tmp/|/usr/|sqlalchemy|sqlite|psycopg|\.py\b|line \d+", re.I
)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    with web_clinic(tmp_path_factory.mktemp("web"), server__max_upload_mb=1) as made:
        yield made


@pytest.fixture(scope="module")
def store(clinic):
    return clinic[0]


@pytest.fixture(scope="module")
def ada(store):
    return Browser(store, "ada")


@pytest.fixture(scope="module")
def study(clinic, store, ada):
    """An image whose every text is a script, examined."""
    with collected_warnings():  # values that the standard forbids are what this is about
        film = dicom_film(
            0.8,
            PatientName=XSS[:60],
            PatientID=XSS[:60],
            Manufacturer=XSS[:60],
            BodyPartExamined="<B>X</B>",
            ViewPosition="<I>",
            StudyDescription=XSS[:60],
            InstitutionName=XSS[:60],
        )
    answer = ada.post(
        "/upload",
        data={"csrf": ada.csrf, "reference": XSS[:100]},
        files={"films": (f"{XSS}.dcm", film, XSS[:40].replace('"', ""))},
    )
    assert answer.status_code == 303, answer.text
    work(*clinic)
    address = ada.get(answer.headers["location"]).headers["location"]
    store.blobs.put(
        "pictures", address.split("/")[-1], encode_picture(pixels())
    )  # as a worker would when asked
    assert ada.submit(f"{address}/feedback", diagnosis="normal", comment=XSS).status_code == 303
    return address


def test_scripts_in_films_and_forms_stay_text(store, ada, study):
    create_user(store, "<u>ser", PASSWORD, "reader", "test")
    create_token(store, account(store, "ada"), "<b>token", ["read"])
    root = Browser(store, "root")
    shown = 0
    for browser, page in (
        (ada, study),
        (ada, f"{study}/report"),
        (ada, "/"),
        (ada, "/settings"),
        (root, "/users"),
        (root, "/audit"),
        (ada, "/dashboard"),
        (ada, f"/?text={XSS}"),
        (ada, f"/settings?said={XSS}"),
        (ada, f"{study}?said={XSS}"),
        (Browser(store), f"/login?next={XSS}"),
        (ada, f"/nowhere/{XSS}"),
    ):
        html = browser.get(page).text
        for attack in (
            "<script>alert",
            "<img src=x",
            "<svg/onload",
            "<b>token",
            "<u>ser",
            "<B>X",
            "<I>",
            "1787569",
        ):
            assert attack not in re.sub(
                r"data:image/[^\"]*|[0-9a-f]{12,}|\d+\.\d+|\d{4}-\d\d-\d\d.{0,9}", "", html
            ), (page, attack)
        shown += "&lt;script&gt;alert" in html
    assert shown >= 2  # it is shown, as text
    assert ada.get(f"{study}/report.pdf").content.startswith(b"%PDF")


def test_json_is_never_read_as_a_page(ada, study):
    answer = ada.get(f"/v1/films/{study.split('/')[-1]}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_every_answer_has_its_headers(store, ada, study):
    _, film = study.strip("/").split("/")[1::2]
    values = {
        "study_id": study.split("/")[2],
        "film_id": film,
        "batch_id": "0" * 32,
        "token_id": 1,
        "user_id": 1,
        "alarm_id": 1,
        "name": "bacterial",
        "change": "disable",
    }
    headers = bearer(store, "ada")
    asked = [
        (method, filled(path, values))
        for method, path in routes(store, "GET", "POST")
        if not path.endswith(("/events", "picture.jpg", "report.pdf"))
    ]
    asked += [
        ("GET", "/nowhere"),
        ("GET", "/assets/style.css"),
        ("GET", "/assets/nowhere"),
        ("PUT", "/"),
        ("TRACE", "/"),
        ("GET", "/v1/films/x"),
        ("GET", "/%00"),
        ("GET", "/assets/../app.py"),
    ]
    statuses = set()
    stranger = Browser(store)
    for method, path in asked:
        for answer in (ada.request(method, path), stranger.request(method, path, headers=headers)):
            statuses.add(answer.status_code)
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, (method, path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy, path
            assert "frame-ancestors 'none'" in policy
            kept = answer.headers["cache-control"]
            assert kept == "no-store" or path.startswith("/assets") or "private" in kept, (path, kept)
            assert "server" not in answer.headers
    assert statuses >= {200, 303, 401, 403, 404, 405, 422}


def test_too_large_a_body_is_refused_with_its_headers(ada):
    answer = ada.post("/upload", content=b"x" * (3 * 2**20), headers={"X-CSRF-Token": ada.csrf})
    assert answer.status_code == 413
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_error_of_ours_says_nothing_and_logs_no_text(store, ada, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("Canary^Coalmine at /secret/place")

    monkeypatch.setattr("pneumoscope_clinic.web.pages_worklist.list_studies", broken)
    monkeypatch.setattr("pneumoscope_clinic.web.api_v1.list_studies", broken, raising=False)
    with caplog.at_level(logging.DEBUG):
        answer = ada.get("/")
    assert answer.status_code == 500
    assert answer.headers["x-frame-options"] == "DENY"
    assert "anary" not in answer.text
    assert not LEAKS.search(answer.text)
    assert "anary" not in caplog.text
    assert "RuntimeError at test_security_web.py" in caplog.text  # enough to find it by


def test_no_error_leaks_anything(store, ada, study):
    bad = [
        ("GET", "/nowhere"),
        ("GET", f"{study}/heat/../../x.png"),
        ("GET", "/v1/films/x"),
        ("DELETE", "/v1/studies"),
        ("GET", "/v1/studies?limit=x"),
        ("GET", "/v1/studies?after=%00"),
        ("GET", "/audit?before=x"),
    ]
    for method, path in bad:
        answer = Browser(store, "root").request(method, path)
        assert 400 <= answer.status_code < 500, path
        assert not LEAKS.search(answer.text), answer.text


def tables(store):
    with store.read() as session:
        return {
            table: session.scalar(select(func.count()).select_from(table)) for table in (User, Token, Alarm)
        }


@pytest.fixture(scope="module")
def root(store):
    return Browser(store, "root")


@pytest.mark.parametrize("text", INJECTIONS)
def test_strange_values_break_no_page(store, root, text):
    """SQL injection, and whatever else a parameter may hold: no error of ours, and nothing changes."""
    before = tables(store)
    for _, path in routes(store, "GET"):
        if "{" in path:
            values = dict.fromkeys(re.findall(r"\{(\w+)", path), quote(text, safe=""))
            answer = root.get(filled(path, values))
        else:
            names = (
                "since",
                "until",
                "decision",
                "state",
                "after",
                "limit",
                "text",
                "days",
                "before",
                "said",
                "wait",
            )
            answer = root.get(path, params=dict.fromkeys(names, text))
            if path in ("/", "/v1/studies"):
                assert root.get(path, params={"after": text}).status_code < 500, path
        assert answer.status_code < 500, path
    assert tables(store) == before


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("text", INJECTIONS)
def test_strange_values_break_no_form(store, root, study, text):
    before = tables(store)
    names = (
        "name",
        "password",
        "role",
        "text",
        "current",
        "new",
        "again",
        "diagnosis",
        "comment",
        "consent",
        "language",
        "days",
        "age_years",
        "reference",
        "batch",
        "since",
        "operating_point",
    )
    fields = {**dict.fromkeys(names, text), "scopes": [text]}
    values = {
        "study_id": study.split("/")[2],
        "film_id": study.split("/")[-1],
        "token_id": 10**30,
        "user_id": 2**31,
        "alarm_id": 2**63,
        "change": "x",
    }
    for _, path in routes(store, "POST"):
        if path in (
            "/logout",
            "/login",
            "/settings/password",
            "/users",
        ):  # these change something, with any text
            continue
        csrf = {"X-CSRF-Token": root.csrf}
        for sent in (
            {"data": fields},
            {"json": fields},
            {"data": fields, "files": {"film": b"x", "films": b"x"}},
        ):
            answer = root.post(filled(path, values), headers=csrf, **sent)
            assert answer.status_code < 500, path
    assert tables(store) == before


def test_broken_json_breaks_nothing(store, study):
    address = f"/v1/films/{study.split('/')[-1]}/feedback"
    for body in (
        b"",
        b"{",
        b"null",
        b"[" * 100_000,
        b'{"diagnosis": "normal", "comment": "\\ud800"}',
        b"\xff",
        b"1e400",
        b'{"diagnosis": "normal", "comment": "\\u0000"}',
        b'{"diagnosis": 1}',
        b'{"diagnosis": {"$gt": ""}}',
        b'{"diagnosis": "normal", "consent": "maybe"}',
        b'{"diagnosis": "normal", "more": 1}',
    ):
        answer = Browser(store).post(
            address, content=body, headers={**bearer(store, "ada"), "Content-Type": "application/json"}
        )
        assert answer.status_code in (201, 400, 422), body[:60]


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../access.py",
        "/assets/..%2faccess.py",
        "/assets/%2e%2e/access.py",
        "/assets/....//access.py",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd",
        "/assets/..%5caccess.py",
        "/assets/%00",
        "/assets/style.css%00.js",
        "/assets/%252e%252e%252faccess.py",
        "/assets/",
    ],
)
def test_assets_lead_nowhere_else(store, path):
    answer = Browser(store).get(path)
    assert answer.status_code in (400, 404), path
    assert "def " not in answer.text
    assert "root:" not in answer.text


def test_identifiers_lead_to_no_other_file(store, ada, study):
    for name in (
        "../../../../clinic.db",
        "..%2f..%2fsecret.key",
        "%2e%2e/secret.key",
        "....//secret",
        "%00",
        "secret.key",
    ):
        for path in (
            f"/studies/{name}/films/{name}",
            f"{study}/heat/{name}.png",
            f"/v1/films/{name}",
            f"/v1/films/{study.split('/')[-1]}/heat-maps/{name}.png",
            f"/batches/{name}",
            f"/films/{name}",
        ):
            assert ada.get(path).status_code in (404, 422), path
    with pytest.raises(ValueError, match="no blob"):
        store.blobs.get("films", "../../secret.key")
    with pytest.raises(ValueError, match="no blob"):
        store.blobs.get("../secret", "0" * 32)


@pytest.mark.parametrize(
    "next_",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "http:evil.example",
        "javascript:alert(1)",
        "/\tevil",
        "/\n//evil.example",
        " //evil.example",
        "",
        "data:text/html,x",
        "///evil",
    ],
)
def test_nobody_is_led_to_another_site(store, ada, next_):
    for answer in (
        Browser(store).post("/login", data={"name": "ada", "password": PASSWORD, "next": next_}),
        ada.get("/login", params={"next": next_}),
        ada.submit("/language", language="en", next=next_),
    ):
        assert answer.status_code == 303
        assert answer.headers["location"] == "/", next_


def test_the_way_back_to_a_page_is_kept_within_this_site(store):
    location = Browser(store).get("//evil.example/x").headers.get("location", "/login?next=/")
    assert location.startswith("/login?next=/")
    answer = Browser(store).post("/login", data={"name": "ada", "password": PASSWORD, "next": "/dashboard"})
    assert answer.headers["location"] == "/dashboard"


def test_another_host_name_is_refused(store):
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "a b"):
        assert Browser(store).get("/login", headers={"Host": host}).status_code == 400, host
    answer = Browser(store).get("/", headers={"Host": "localhost", "X-Forwarded-Host": "evil.example"})
    assert "evil" not in str(answer.headers)


def test_the_verb_of_a_request_is_not_bent(store, ada, study):
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"):
        for path in ("/logout", "/users", "/v1/studies", study):
            assert ada.request(method, path).status_code == 405, (method, path)
    for override in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"):
        answer = ada.get("/logout", headers={override: "POST", "X-CSRF-Token": ada.csrf})
        assert answer.status_code in (404, 405)
    assert ada.get("/").status_code == 200  # still logged in


def test_wrong_names_and_wrong_passwords_read_and_cost_the_same(tmp_path, monkeypatch):
    """User enumeration: the same answer, and the same one check of a password."""
    with web_clinic(tmp_path, security__login_attempts=100) as (store, _):
        create_user(store, "without-password", None, "reader", "test")
        accounts.change_user(store, "ben", "test", disabled=True)
        checks, answers = [], {}
        real = accounts._verified
        monkeypatch.setattr(
            accounts, "_verified", lambda *given: checks.append(given[0][:40]) or real(*given)
        )
        for name, password in (
            ("ada", "wrong"),
            ("nobody", "wrong"),
            ("ben", PASSWORD),
            ("without-password", ""),
        ):
            before = len(checks)
            answer = Browser(store).post("/login", data={"name": name, "password": password})
            answers[name] = (answer.status_code, answer.text.replace(name, "NAME"), len(checks) - before)
        assert len(set(answers.values())) == 1, answers
        assert answers["ada"][0] == 403
        assert {check.split("p=")[0] for check in checks} == {
            checks[0].split("p=")[0]
        }  # as much memory and time


def test_logins_are_limited_by_name_in_all_processes(tmp_path):
    store = make_store(tmp_path, security__login_attempts=3)
    create_user(store, "ada", PASSWORD, "reader", "test")
    other = open_store(store.settings)  # as another process has it
    for number, each in enumerate((store, other, store)):
        with pytest.raises(ForbiddenError):
            authenticate(each, "ada" if number else "ADA", "wrong", f"10.0.0.{number}")
    for each in (store, other):
        with pytest.raises(TooManyAttemptsError):
            authenticate(each, "ada", PASSWORD, "10.0.0.9")
    with store.read() as session:
        kept = " ".join(session.scalars(select(Attempt.key))) + " ".join(
            session.scalars(select(AuditEntry.object).where(AuditEntry.action == "login.failed"))
        )
    assert "ada" not in kept.split()
    assert "10.0.0" not in kept
    store.close()
    other.close()


def test_logins_are_limited_by_address(tmp_path):
    store = make_store(tmp_path, security__login_attempts=1)
    create_user(store, "ada", PASSWORD, "reader", "test")
    for number in range(10):
        with pytest.raises(ForbiddenError):
            authenticate(store, f"name-{number}", "wrong", "10.0.0.1")
    with pytest.raises(TooManyAttemptsError):
        authenticate(store, "ada", PASSWORD, "10.0.0.1")
    assert authenticate(store, "ada", PASSWORD, "10.0.0.2").name == "ada"
    store.close()


@pytest.mark.parametrize("name", ["a\0da", "ada\x1b", "\r\nada\u2028x"])
def test_a_name_with_control_characters_is_a_failed_log_in(tmp_path, postgres, name):
    """PostgreSQL takes no NUL: what no user may be called does not reach the database, and is counted."""
    url = new_postgres(postgres)
    with web_clinic(tmp_path, database__url=url, security__login_attempts=2) as (store, _):
        browser = Browser(store)
        codes = [
            browser.post("/login", data={"name": name, "password": PASSWORD}).status_code for _ in range(3)
        ]
    assert codes == [403, 403, 429]


def test_guesses_at_the_same_moment_count_each(tmp_path):
    """A race: attempts count before the password is checked, so that many at once get no more guesses."""
    store = make_store(tmp_path, security__login_attempts=3)
    create_user(store, "ada", PASSWORD, "reader", "test")
    refused = []

    def guess():
        try:
            authenticate(store, "ada", "wrong", "10.0.0.1")
        except (TooManyAttemptsError, ForbiddenError) as error:
            refused.append(type(error))

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused.count(ForbiddenError) == 3
    assert refused.count(TooManyAttemptsError) == 9
    store.close()


def test_old_attempts_are_forgotten_and_a_log_in_forgets_the_names(tmp_path):
    store = make_store(tmp_path, security__login_pause_minutes=1e-4)
    create_user(store, "ada", PASSWORD, "reader", "test")
    for _ in range(8):
        with pytest.raises(ForbiddenError):
            authenticate(store, "ada", "wrong", "10.0.0.1")
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(Attempt)) <= 4
    store.close()


def png_bomb(*, text=b"", side=40_000):
    """A black picture of one bit a pixel, packed as tightly as zlib can."""
    row, packer = bytes(1 + side // 8), zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    size = struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", size), *([(b"zTXt", text)] if text else []), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def tiff_bomb(side=40_000):
    """A white picture in CCITT T.6: a bit for each line that is as the one above it, then twice 0x001."""
    data = b"\xff" * (side // 8) + b"\x00\x10\x01"
    tags = {256: side, 257: side, 258: 1, 259: 4, 262: 0, 273: 8, 277: 1, 278: side, 279: len(data)}
    entries = b"".join(struct.pack("<2H2I", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2s H I", b"II", 42, 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def bomb(kind):
    """A small file that would be a large picture."""
    if kind == "PNG":
        return png_bomb()
    if kind == "TIFF":
        return tiff_bomb()
    if kind == "PNG text":
        return png_bomb(text=b"Comment\0\0" + zlib.compress(b"x" * 30_000_000), side=64)
    jpeg = bytearray(jpeg_film())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    return bytes(jpeg)


def test_the_bombs_are_pictures():
    """Small ones are read, so that large ones are refused for their size."""
    for content in (png_bomb(side=64), tiff_bomb(side=64)):
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.size, picture.mode) == ((64, 64), "1")
            assert len(set(picture.tobytes())) == 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PNG text", "JPEG size"])
def test_decompression_bombs_are_refused_or_harmless(clinic, ada, kind):
    store, films = clinic
    content = bomb(kind)
    assert len(content) < 1_000_000
    answer = ada.post("/v1/examine?wait=false", files={"film": content}, headers={"X-CSRF-Token": ada.csrf})
    assert answer.status_code == 202, answer.text
    work(store, films)
    state = ada.get(answer.headers["location"]).json()
    assert state["state"] == "failed"
    assert "pixels" in state["problem"]["problem"] or "decode" in state["problem"]["problem"], state[
        "problem"
    ]


def test_a_path_in_the_log_forges_nothing():
    shown = shown_path({"path": "/studies/Coalmine, Canary\n2026-01-01 INFO all is well/films/" + "a" * 32})
    assert shown == "/studies/…/films/" + "a" * 32
    assert shown_path({"path": "/v1/films/" + "0" * 32 + "/heat-maps/bacterial.png"}).endswith(
        "bacterial.png"
    )
    assert len(shown_path({"path": "/" * 10_000})) <= 200


def test_queries_and_names_of_files_are_not_logged(store, ada, caplog):
    with caplog.at_level(logging.DEBUG):
        ada.get("/?text=Canary&decision=Canary")
        ada.get("/Canary/Canary%0aforged")
        ada.post(
            "/upload",
            data={"csrf": ada.csrf, "reference": "Canary"},
            files={"films": ("Canary.png", png_film())},
        )
    assert "GET / " in caplog.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("pneumoscope")]
    assert ours
    assert not [line for line in ours if "anary" in line]
    assert not [line for line in ours if "\n" in line]


def test_films_of_one_reader_stay_that_readers_whatever_their_header_says(clinic, ada):
    """A DICOM study or instance that another reader has sent before does not lead to theirs."""
    store, films = clinic
    film = dicom_film(0.3, StudyInstanceUID="1.2.3.4", SOPInstanceUID="1.2.3.4.5")
    ben = Browser(store, "ben")
    addresses = []
    for browser in (ada, ben):
        address = browser.upload(film).headers["location"]
        work(store, films)
        addresses.append(browser.get(address).headers["location"].split("/")[2])
    assert addresses[0] != addresses[1]
    with store.read() as session:
        owners = [session.get_one(Study, study).owner_id for study in addresses]
        assert owners == [user_named(session, name).id for name in ("ada", "ben")]
