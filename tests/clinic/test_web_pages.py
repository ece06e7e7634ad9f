"""Every page without scripts: what it shows and to whom, and what it refuses."""

import re
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from pneumoscope_clinic.store.studies import FeedbackEntry, add_feedback, film_of
from pneumoscope_clinic.store.tables import Alarm, Film, Job, Study
from pneumoscope_clinic.store.viewers import create_token
from pneumoscope_clinic.web.pages_worklist import _KEYS, _filter
from pneumoscope_clinic.web.rendering import ASSETS
from tests.clinic.films import dicom_film, png_film
from tests.clinic.web_clinic import PASSWORD, Browser, web_clinic, work, working

READER_PAGES = ("/", "/upload", "/dashboard", "/bundle", "/settings")
ADMIN_PAGES = ("/users", "/configuration", "/audit")
CHANGES = ("2026-03-29", "2026-10-25")
"""Days of 23 and 25 hours in central Europe."""
MEAN = "<img src=x onerror=alert(1)>\"'{{7*7}}<script>alert(2)</script>"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    with web_clinic(tmp_path_factory.mktemp("clinic")) as made:
        yield made


@pytest.fixture(scope="module")
def store(clinic):
    return clinic[0]


@pytest.fixture(scope="module")
def ada(store):
    return Browser(store, "ada")


@pytest.fixture(scope="module")
def root(store):
    return Browser(store, "root")


@pytest.fixture(scope="module")
def study(clinic, ada):
    """Address of a positive image of Ada's, examined, with a name that is an attack."""
    answer = ada.upload(png_film(0.8), reference=MEAN, age_years="4")
    assert answer.status_code == 303
    work(*clinic)
    return ada.get(answer.headers["location"]).headers["location"]


def test_nobody_sees_anything_before_logging_in(store):
    browser = Browser(store)
    for page in (*READER_PAGES, *ADMIN_PAGES, "/studies/x", "/batches/x", "/films/x"):
        answer = browser.get(page)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=")
    assert browser.post("/upload").status_code == 401
    assert "Log in" in browser.get("/login").text


def test_wrong_passwords(store):
    browser = Browser(store)
    wrong = browser.post("/login", data={"name": "ada", "password": "not hers"})
    unknown = browser.post("/login", data={"name": "nobody", "password": "not hers"})
    assert wrong.status_code == unknown.status_code == 403
    assert "Name or password is wrong." in wrong.text
    assert "set-cookie" not in wrong.headers


@pytest.mark.parametrize("address", ["https://evil.example/", "//evil.example", "/\\evil.example", "x\ny"])
def test_login_leads_nowhere_else(store, address):
    answer = Browser(store).post("/login", data={"name": "ada", "password": PASSWORD, "next": address})
    assert answer.headers["location"] == "/"


def test_a_login_from_another_site_is_refused(store):
    answer = Browser(store).post(
        "/login", data={"name": "ada", "password": PASSWORD}, headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 403


def test_logging_in_and_out(store):
    browser = Browser(store)
    answer = browser.post("/login", data={"name": "ben", "password": PASSWORD, "next": "/upload"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/upload")
    assert "httponly" in answer.headers["set-cookie"].lower()
    cookie = dict(browser.cookies)
    token = re.search(r'name="csrf" value="([^"]+)"', browser.get("/upload").text)[1]
    assert browser.post("/logout", data={"csrf": token}).status_code == 303
    browser.cookies.update(cookie)
    assert browser.get("/").status_code == 303


@pytest.mark.parametrize("page", [*READER_PAGES, *ADMIN_PAGES])
def test_pages_of_an_administrator(root, page):
    answer = root.get(page)
    assert answer.status_code == 200
    assert '<html lang="en">' in answer.text
    assert answer.text.count("<h1") == 1
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("page", ADMIN_PAGES)
@pytest.mark.parametrize("name", ["ada", "rosa"])
def test_readers_administer_nothing(store, name, page):
    browser = Browser(store, name)
    assert browser.get(page).status_code == 403
    for form in ("/users", "/users/1/role", "/users/1/disable", "/audit/verify"):
        assert browser.submit(form, role="admin").status_code == 403
    assert page not in re.findall(r'href="([^"]+)"', browser.get("/").text)


def test_no_page_holds_a_script_or_a_style_of_its_own(root, ada, study):
    for answer in [*map(root.get, (*READER_PAGES, *ADMIN_PAGES)), ada.get(study)]:
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert re.findall(r"<script(?![^>]* src=)|<style|<[^>]*\s(?:style|on\w+)=", answer.text) == []
        assert re.findall(r'(?:src|href)="(?:https?:|//)', answer.text) == []


def test_assets_are_files_that_browsers_keep(ada):
    for address in re.findall(r'(?:src|href)="(/assets/[^"#]+)"', ada.get("/upload").text):
        answer = ada.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert ada.get("/assets/../rendering.py").status_code == 404
    assert ada.get("/assets/%2e%2e/rendering.py").status_code == 404


def test_an_answer(ada, study):
    page = ada.get(study).text
    for text in (
        "Pneumonia likely",
        "Operating point",
        "balanced: positive from 70.0 %",
        "Bacterial pneumonia",
        "It knows nothing about pneumonia.",
        "not a medical device",
        "4 years",
    ):
        assert text in page
    assert re.search(r"<strong>9\d\.\d %</strong>", page)
    assert 'data-address="' in page


def test_texts_of_others_are_never_markup(ada, study):
    for page in (study, "/"):
        text = ada.get(page).text
        assert "onerror=alert" in text
        assert "<img src=x" not in text
        assert "<script>alert" not in text
        assert "49" not in re.findall(r"<h1>(.*?)</h1>", text, re.S)[0]


def test_dicom_tags_are_never_markup(clinic, ada):
    bad = '<script src="//evil.example"></script>'
    maker = '<img src="//evil.example">'  # names of the patient would be taken out of it
    film = dicom_film(0.8, PatientName=bad, Manufacturer=maker, BodyPartExamined="CHEST", PatientID=bad)
    location = ada.upload(film).headers["location"]
    work(*clinic)
    page = ada.get(ada.get(location).headers["location"]).text
    assert "evil.example&#34;&gt;" in page  # the manufacturer is shown, as text
    assert 'src="//evil' not in page


def test_names_of_files_are_kept_nowhere(clinic, ada, study):
    for page in (study, "/", "/dashboard"):
        assert "name-of-file" not in ada.get(page).text
    database = clinic[0].settings.directory
    assert not [
        file for file in database.rglob("*") if file.is_file() and b"name-of-file" in file.read_bytes()
    ]


def test_pictures(clinic, ada, study):
    with working(*clinic):
        answer = ada.get(f"{study}/picture.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert "private" in answer.headers["cache-control"]
    image = Image.open(_file(answer))
    assert (image.mode, image.size) == ("L", (160, 120))
    heat = Image.open(_file(ada.get(f"{study}/heat/bacterial.png")))
    assert heat.mode == "L"
    assert np.asarray(heat).max() > 200
    assert ada.get(f"{study}/heat/other.png").status_code == 404


def test_reports(clinic, ada, study):
    with working(*clinic):
        html, pdf = ada.get(f"{study}/report"), ada.get(f"{study}/report.pdf")
    policy = html.headers["content-security-policy"]
    nonce = re.search(r"'nonce-([\w-]+)'", policy)[1]
    assert f'<style nonce="{nonce}">' in html.text
    assert "script-src" not in policy
    assert policy.startswith("default-src 'none'")
    assert pdf.content.startswith(b"%PDF")
    assert "name-of-file" not in pdf.headers["content-disposition"]


def test_another_reader_sees_none_of_it(store, study):
    ben, rosa = Browser(store, "ben"), Browser(store, "rosa")
    film_id = study.rpartition("/")[2]
    own = [
        study,
        study.partition("/films/")[0],
        f"/films/{film_id}",
        f"/films/{film_id}/state",
        f"/films/{film_id}/events",
        *(f"{study}/{part}" for part in ("picture.jpg", "heat/bacterial.png", "report", "report.pdf")),
    ]
    for address in own:
        assert ben.get(address).status_code == 404, address
    assert ben.submit(f"{study}/feedback", diagnosis="normal").status_code == 404
    assert study not in ben.get("/").text
    assert rosa.get(study).status_code == 200


def test_a_film_is_found_in_its_own_study_only(clinic, ada, study):
    other = ada.upload(png_film(0.3)).headers["location"].rpartition("/")[2]
    assert ada.get(f"{study.rpartition('/')[0]}/{other}").status_code == 404


def test_forms_of_other_sites_change_nothing(store, ada, study):
    for form in (
        "/upload",
        "/batches",
        "/logout",
        "/settings/tokens",
        "/settings/password",
        "/language",
        "/search",
        f"{study}/feedback",
    ):
        assert ada.post(form, data={"diagnosis": "normal"}).status_code == 403, form
        assert ada.post(form, data={"csrf": "x", "diagnosis": "normal"}).status_code == 403, form
        token = ada.csrf
        foreign = ada.post(form, data={"csrf": token}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403, form
    assert ada.get("/").status_code == 200
    assert ada.get("/logout").status_code in (404, 405)


def test_a_diagnosis(store, ada, study):
    incomplete = ada.submit(f"{study}/feedback", comment="kept while the form is wrong")
    assert incomplete.status_code == 422
    assert "Choose a final diagnosis." in incomplete.text
    assert "kept while the form is wrong" in incomplete.text
    assert ada.submit(f"{study}/feedback", diagnosis="bacterial", comment="x" * 2001).status_code == 422
    agreed = ada.submit(f"{study}/feedback", diagnosis="bacterial", comment=MEAN)
    assert agreed.headers["location"] == f"{study}?said=saved"
    ada.submit(f"{study}/feedback", diagnosis="normal", consent="yes", comment="a\r\nb")
    page = ada.get(f"{study}?said=saved").text
    assert "The diagnosis is saved." in page
    assert page.index("· disagrees") < page.index("· agrees")
    assert "may be used for training" in page
    assert "<img src=x" not in page
    film_id = study.rpartition("/")[2]
    with store.read() as session:
        rows = session.get_one(Film, film_id).feedback
        assert [(row.diagnosis, row.agrees, row.consent) for row in rows] == [
            ("bacterial", True, False),
            ("normal", False, True),
        ]
        assert MEAN.encode() not in rows[0].comment
    assert "no pneumonia" in ada.get("/").text


def test_broken_films(clinic, ada):
    empty = ada.upload(b"")
    assert empty.status_code == 422
    assert "The file is empty, or none was chosen." in empty.text
    text = ada.upload(b"this is no image at all")
    truncated = ada.upload(dicom_film(0.5)[:900])
    work(*clinic)
    for location in (text.headers["location"], truncated.headers["location"]):
        page = ada.get(ada.get(location).headers["location"]).text
        assert "Not readable" in page
        assert "Pneumonia likely" not in page
    shown = ada.get(ada.get(text.headers["location"]).headers["location"]).text
    assert "expected: DICOM, JPEG, PNG, TIFF or BMP content" in shown
    assert "There is no picture: the image could not be read, for the reason on this page." in shown
    assert "is shown once it is examined" not in shown


@pytest.mark.parametrize("age", ["-1", "131", "nan", "inf", "four", "1e400"])
def test_impossible_ages(ada, age):
    answer = ada.upload(png_film(0.5), age_years=age, reference="Bed 7")
    assert answer.status_code == 422
    assert "from 0 to 130" in answer.text
    assert 'value="Bed 7"' in answer.text


def test_a_decimal_comma_is_understood(store, ada):
    film_id = ada.upload(png_film(0.5), age_years="0,5").headers["location"].rpartition("/")[2]
    with store.read() as session:
        assert session.get_one(Film, film_id).options == {"age_years": 0.5}


def test_a_photograph_is_said_to_be_one(store, ada):
    film_id = ada.upload(png_film(0.5), photograph="yes").headers["location"].rpartition("/")[2]
    with store.read() as session:
        assert session.get_one(Film, film_id).options == {"photograph": True}


def test_a_batch(clinic, store, ada):
    location = ada.upload(png_film(0.8), png_film(0.1), b"no image").headers["location"]
    assert location.startswith("/batches/")
    assert ada.get(f"{location}/state").json()["said"] == "0 of 3 images examined"
    assert ada.get(location).text.count("Waiting") == 3
    work(*clinic)
    state = ada.get(f"{location}/state").json()
    assert [film["outcome"] for film in state["films"]] == ["positive", "negative", "failed"]
    with ada.stream("GET", f"{location}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        text = events.read().decode()
    assert text.startswith("event: progress\ndata: {")
    assert '"done": 3' in text
    assert "Image 1 of 3" in ada.get(location).text
    assert Browser(store, "ben").get(location).status_code == 404
    assert Browser(store, "ben").get(f"{location}/events").status_code == 404


def test_a_script_sends_films_one_by_one(ada, store):
    wants = {"Accept": "application/json"}
    batch = ada.post("/batches", data={"csrf": ada.csrf}, headers=wants).json()["batch"]
    sent = ada.post(
        "/upload",
        data={"csrf": ada.csrf, "batch": batch},
        files={"films": ("x", png_film(0.4))},
        headers=wants,
    )
    assert sent.status_code == 201
    assert [film["id"] for film in ada.get(f"/batches/{batch}/state").json()["films"]] == [
        sent.json()["film"]
    ]
    refused = ada.post("/upload", data={"csrf": ada.csrf}, files={"films": ("x", b"")}, headers=wants)
    assert (refused.status_code, refused.json()) == (
        422,
        {"detail": "The file is empty, or none was chosen."},
    )
    ben = Browser(store, "ben")
    foreign = ben.post(
        "/upload",
        data={"csrf": ben.csrf, "batch": batch},
        files={"films": ("x", png_film(0.4))},
        headers=wants,
    )
    assert foreign.status_code in (404, 422)


def test_films_of_the_pacs_are_everyones(clinic, store):
    from pneumoscope_clinic.worker.intake import Sender, receive

    received = receive(store, dicom_film(0.6), Sender("dimse:PACS", None, "dimse"))
    work(*clinic)
    page = Browser(store, "ben").get(f"/studies/{received.study_id}/films/{received.film_id}").text
    assert "sent by DICOM" in page
    assert "anary" not in page


def test_filters(ada, study):
    def rows(**fields):
        answer = ada.submit("/search", **fields)
        assert answer.status_code == 303
        assert "onerror" not in answer.headers["location"]
        return ada.get(answer.headers["location"]).text

    assert study in rows(text="ONERROR=")
    assert study not in rows(text="another")
    assert study in rows(decision="POSITIVE", verdict="ANSWER", state="done", feedback="yes")
    assert "No study matches" in rows(decision="POSITIVE", feedback="yes", until="2001-01-01")
    assert study in rows(since="2001-01-01", sort="oldest")
    assert ada.get("/?since=yesterday&decision=x%27%20OR%201=1&text=!!").status_code == 200
    assert ada.get("/?after=nonsense").status_code == 422
    for day in ("9999-12-31", "0001-01-01"):
        assert ada.get(f"/?since={day}&until={day}").status_code == 200
    assert study in ada.get("/?until=9999-12-31").text


def test_a_day_of_the_filter_ends_with_the_day_also_when_clocks_change(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        filters = [_filter(dict.fromkeys(_KEYS, "") | {"until": day}).until for day in CHANGES]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert filters == [datetime(2026, 3, 29, 22, tzinfo=UTC), datetime(2026, 10, 25, 23, tzinfo=UTC)]


def test_pages_of_the_worklist(tmp_path):
    with web_clinic(tmp_path) as (store, _):
        with store.write() as session:
            for _ in range(60):
                film = Film(source="web", sha256="0" * 64, size=1, jobs=[Job(kind="examine")])
                session.add(Study(films=[film]))
        browser = Browser(store, "ben")
        first = browser.get("/").text
        following = re.search(r'href="(/\?after=[^"]+)" rel="next"', first)[1].replace("&amp;", "&")
        second = browser.get(following).text
        links = [re.findall(r'href="(/studies/[^"]+)"', text) for text in (first, second)]
        assert [len(part) for part in links] == [50, 10]
        assert set(links[0]).isdisjoint(links[1])


def test_silent_mode_shows_nothing(tmp_path):
    with web_clinic(tmp_path, shadow=True) as (store, films):
        ada = Browser(store, "ada")
        location = ada.upload(png_film(0.8)).headers["location"]
        work(store, films)
        study = ada.get(location).headers["location"]
        page = ada.get(study).text
        assert "In silent mode the answer is shown to nobody." in page
        for text in ("Pneumonia likely", "Probability of pneumonia", "Heat map"):
            assert text not in page
        assert ada.get(f"{location}/state").json()["films"][0]["outcome"] == "withheld"
        for part in ("heat/bacterial.png", "report", "report.pdf"):
            assert ada.get(f"{study}/{part}").status_code == 404
        assert "Pneumonia likely" not in ada.get("/").text.partition("<tbody>")[2]
        assert ada.submit(f"{study}/feedback", diagnosis="normal").status_code == 303
        assert "disagrees" not in ada.get(study).text


def test_languages(store):
    browser = Browser(store)
    french = browser.get("/login", headers={"Accept-Language": "fr-CH, en;q=0.5"}).text
    assert '<html lang="fr">' in french
    assert "Nom d&#39;utilisateur" in french
    assert '<html lang="en">' in browser.get("/login", headers={"Accept-Language": "tlh"}).text
    browser.post("/language", data={"language": "zh", "next": "/login"})
    assert '<html lang="zh">' in browser.get("/login", headers={"Accept-Language": "fr"}).text
    assert browser.post("/language", data={"language": "xx"}).headers.get("set-cookie") is None


def test_the_language_of_a_user_goes_with_them(store, clinic):
    Browser(store, "rosa").submit("/language", language="es")
    elsewhere = Browser(store, "rosa")
    assert '<html lang="es">' in elsewhere.get("/").text
    elsewhere.submit("/language", language="en")


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("fr", ("Pneumonie probable", "Une pneumonie est probable", "équilibré", "70,0")),
        ("es", ("Neumonía probable", "La neumonía es probable", "equilibrado")),
        ("zh", ("很可能有肺炎", "均衡", "70.0%")),
    ],
)
def test_an_answer_in_other_languages(ada, study, language, texts):
    page = ada.get(study, headers={"Accept-Language": language}).text
    for text in texts:
        assert text in page


def test_settings(store):
    from pneumoscope_clinic.store.accounts import create_user

    create_user(store, "eve", PASSWORD, "reader", "test")
    eve, elsewhere = Browser(store, "eve"), Browser(store, "eve")
    made = eve.submit("/settings/tokens", name="script", days="30", scopes=["read"])
    secret = re.search(r"pns_[\w-]+", made.text)[0]
    assert eve.get("/v1/studies", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    assert secret not in eve.get("/settings").text
    for wrong in (
        {"name": "", "scopes": ["read"]},
        {"name": "x"},
        {"name": "x", "scopes": ["read"], "days": "0"},
        {"name": "x", "scopes": ["all"]},
    ):
        assert eve.submit("/settings/tokens", **wrong).status_code == 422
    assert eve.submit("/settings/tokens", name="x", scopes=["admin"]).status_code == 403
    token_id = re.search(r"/settings/tokens/(\d+)/revoke", eve.get("/settings").text)[1]
    assert Browser(store, "ada").submit(f"/settings/tokens/{token_id}/revoke").status_code == 404
    assert eve.submit(f"/settings/tokens/{token_id}/revoke").status_code == 303

    new = "another long password"
    for fields in (
        {"current": "wrong", "new": new, "again": new},
        {"current": PASSWORD, "new": new, "again": "x"},
        {"current": PASSWORD, "new": "short", "again": "short"},
    ):
        assert eve.submit("/settings/password", **fields).status_code == 422
    assert eve.submit("/settings/password", current=PASSWORD, new=new, again=new).status_code == 303
    assert "The password is changed." in eve.get("/settings?said=password").text
    assert elsewhere.get("/").status_code == 303


def test_users(store, root):
    assert root.submit("/users", name="max", password="short", role="reader").status_code == 422
    assert root.submit("/users", name="max", password=PASSWORD, role="reader").status_code == 303
    assert root.submit("/users", name="max", password=PASSWORD, role="reader").status_code == 422
    page = root.get("/users").text
    number = re.search(r'/users/(\d+)/role"[^>]*>.*?Role of max', page)[1]
    browser = Browser(store, "max")
    assert root.submit(f"/users/{number}/role", role="reviewer").status_code == 303
    assert browser.get("/").status_code == 303
    assert root.submit(f"/users/{number}/disable").status_code == 303
    assert Browser(store).post("/login", data={"name": "max", "password": PASSWORD}).status_code == 403
    assert root.submit(f"/users/{number}/enable").status_code == 303
    assert root.submit("/users/999999/role", role="reader").status_code == 404
    assert root.submit(f"/users/{number}/nonsense").status_code == 404
    own = re.search(r'/users/(\d+)/role"[^>]*>.*?Role of root', page)[1]
    assert "No administrator would be left." in root.submit(f"/users/{own}/role", role="reader").text


def test_the_configuration_holds_no_secret(tmp_path):
    url = f"sqlite:///{tmp_path}/canary-password.db"
    with web_clinic(tmp_path, database__url=url) as (store, _):
        page = Browser(store, "root").get("/configuration").text
        assert "server.max_upload_mb" in page
        assert "database.url" in page
        assert "canary-password" not in page


def test_the_audit_log(store, root):
    page = root.get("/audit").text
    assert "film.received" in page
    assert "user:ada" in page
    assert "onerror" not in page
    assert "The chain holds" in root.submit("/audit/verify").text
    older = re.search(r'href="(/audit\?before=\d+)"', page)
    assert older is None or root.get(older[1]).status_code == 200
    assert root.get("/audit?before=0").status_code == 422
    assert root.get("/audit?before=99999999999999999999").status_code == 422


def test_the_dashboard(store, ada, study):
    with store.write() as session:
        session.add(
            Alarm(kind="queue", message="The oldest image has waited for 7 minutes; are the workers running?")
        )
    film = film_of(store, *_viewer_and_film(store, study))
    add_feedback(store, _viewer(store), film.id, FeedbackEntry("bacterial"))
    page = ada.get("/dashboard").text
    assert "Images wait" in page
    assert "are the workers running?" in page
    assert "Mark as seen" not in page
    assert "Agreement with readers by week" in page
    assert page.count('<svg class="plot"') == 2
    assert ada.get("/dashboard?days=0").status_code == 422
    assert ada.submit("/alarms/1/acknowledge").status_code == 403
    rosa = Browser(store, "rosa")
    assert rosa.submit("/alarms/1/acknowledge").status_code == 303
    assert "Seen by rosa" in rosa.get("/dashboard").text


def test_the_bundle_and_its_card(ada):
    page = ada.get("/bundle").text
    assert "It knows nothing about pneumonia." in page
    assert "<h2>tiny</h2>" in page
    assert page.count("<table>") == page.count("</table></div>")
    assert "<p># " not in page


def test_markdown_of_a_bundle_is_never_markup():
    from pneumoscope_clinic.web.pages_dashboard import _html

    html = _html(
        "# a\n\n<script>alert(1)</script>\n\n[x](javascript:alert(1))\n\n| a |\n| --- |\n| <b>c</b> |\n"
    )
    assert "<script" not in html
    assert "<b>" not in html
    assert 'href="javascript' not in html
    assert html.startswith("<h2>a</h2>")


def test_errors_are_pages_that_say_nothing_of_what_was_sent(ada):
    answer = ada.get("/studies/canary-canary")
    assert answer.status_code == 404
    assert "canary" not in answer.text.replace('value="/studies/canary-canary"', "")
    assert "Not found" in answer.text
    assert ada.get("/nothing/here").status_code == 404
    assert ada.delete("/upload").status_code == 405


def test_a_programs_token_opens_no_page(store):
    viewer = _viewer(store)
    secret = create_token(store, viewer, "x", ["read"])
    assert Browser(store).get("/", headers={"Authorization": f"Bearer {secret}"}).status_code == 303


def test_no_javascript_holds_words():
    for file in ASSETS.glob("*.js"):
        code = re.sub(r"//.*", "", file.read_text(encoding="utf-8"))
        assert re.findall(r"\btextContent = \"[A-Za-z]", code) == []
        assert "innerHTML" not in code
        assert "eval(" not in code


def _file(answer):
    import io

    return io.BytesIO(answer.content)


def _viewer(store):
    from sqlalchemy import select

    from pneumoscope_clinic.store.tables import User
    from pneumoscope_clinic.store.viewers import Viewer

    with store.read() as session:
        user = session.scalars(select(User).where(User.name == "ada")).one()
    return Viewer(user.id, user.name, user.role)


def _viewer_and_film(store, study):
    return _viewer(store), study.rpartition("/")[2]
