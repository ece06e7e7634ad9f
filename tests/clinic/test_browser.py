"""The pages in a real browser: Debian's Chromium goes through all of them, with images and with what is none.

Any error on the console (a violation of the content-security policy among them) fails a test. Screenshots lie
in PNEUMOSCOPE_SCREENSHOTS or the test's folder, to be looked at.
"""

import os
import re
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from pneumoscope_clinic.web.app import create_app
from tests.clinic.films import dicom_film, png_film
from tests.clinic.web_clinic import PASSWORD, web_clinic, working

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

PAGES = ("/", "/upload", "/dashboard", "/bundle", "/settings", "/users", "/configuration", "/audit")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
WIDE = {"width": 1280, "height": 800}
LAUNCHED = "() => document.querySelector('[data-film]')?.dataset.ready === 'true'"


@contextmanager
def served(store):
    """Address of the application, on a port of its own."""
    config = uvicorn.Config(create_app(store), port=0, log_config=None, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinic")
    with web_clinic(folder) as (store, films), working(store, films), served(store) as at:
        yield at


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = os.environ.get("PNEUMOSCOPE_SCREENSHOTS")
    made = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    made.mkdir(parents=True, exist_ok=True)
    return made


class Reader:
    """Somebody at a browser."""

    def __init__(self, chromium, address, name="root", **options):
        self.address = address
        self.context = chromium.new_context(base_url=address, **{"viewport": WIDE, "locale": "en", **options})
        self.page = self.context.new_page()
        self.errors = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto("/login")
        self.page.fill("#name", name)
        self.page.fill("#password", PASSWORD)
        self.page.click("main button.main")
        self.page.wait_for_selector("#content .head")

    def _note(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def send(self, *films, **fields):
        """Send images by the form and wait for the page that follows."""
        self.page.goto("/upload")
        self.page.set_input_files("#films", [str(film) for film in films])
        for name, value in fields.items():
            self.page.fill(f"#{name}", value)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(re.compile("/(studies|batches)/"))

    def wait_for_answer(self):
        self.page.wait_for_selector(".verdict:not(.waiting):not(.running)")

    def wait_for_film(self):
        _wait(lambda: self.page.evaluate(LAUNCHED))

    def close(self):
        self.context.close()


@pytest.fixture
def reader(chromium, address):
    opened = Reader(chromium, address)
    yield opened
    opened.close()
    assert opened.errors == []


@pytest.fixture(scope="module")
def film_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("films") / "an own name <b>.png"
    file.write_bytes(png_film(0.8))
    return file


@pytest.fixture(scope="module")
def study(chromium, address, film_file):
    """Address of a positive image."""
    opened = Reader(chromium, address)
    opened.send(film_file, reference="Ward 3, bed 12")
    opened.wait_for_answer()
    path = opened.page.url.removeprefix(address)
    opened.close()
    return path


def _wait(done, seconds=20):
    over = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < over, "it took too long"
        time.sleep(0.05)


def violations(page):
    found = axe.Axe().run(page, options=RULES).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found]


def overflow(page):
    return page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier(chromium, address, study, screenshots, scheme):
    opened = Reader(chromium, address, color_scheme=scheme)
    page = opened.page
    for path in (*PAGES, study):
        page.goto(path)
        if path == study:
            opened.wait_for_film()
            page.select_option("#map", index=1)
        for menu in page.locator("details").all():
            menu.evaluate("element => { element.open = true; }")
        page.screenshot(path=screenshots / f"{scheme}-{_named(path)}.png", full_page=True)
        assert violations(page) == [], path
    opened.context.clear_cookies()
    page.goto("/login")
    assert violations(page) == []
    assert opened.errors == []
    opened.close()


@pytest.mark.parametrize(
    ("language", "viewport", "scale"),
    [
        ("en", {"width": 320, "height": 640}, 2),
        ("fr", {"width": 375, "height": 700}, 2),
        ("es", {"width": 640, "height": 400}, 2),  # 1280 x 800 at 200 %
        ("zh", WIDE, 1),
    ],
)
def test_no_page_is_wider_than_its_window(chromium, address, study, screenshots, language, viewport, scale):
    opened = Reader(chromium, address, locale=language, viewport=viewport, device_scale_factor=scale)
    for path in (*PAGES, study):
        opened.page.goto(path)
        assert opened.page.locator("html").get_attribute("lang") == language
        if path == study:
            opened.wait_for_film()
        opened.page.screenshot(path=screenshots / f"{language}-{_named(path)}.png", full_page=True)
        assert overflow(opened.page) <= 0, path
    assert opened.errors == []
    opened.close()


def test_a_narrow_page_begins_at_the_newest_day_and_the_active_tab(chromium, address, study, screenshots):
    opened = Reader(chromium, address, viewport={"width": 375, "height": 700}, device_scale_factor=2)
    page = opened.page
    page.goto("/dashboard")
    in_view = """([inner, outer]) => {
      const last = (name) => [...document.querySelectorAll(name)].at(-1).getBoundingClientRect();
      const [a, b] = [last(inner), last(outer)];
      return a.width > 0 && a.left >= b.left - 1 && a.right <= b.right + 1;
    }"""
    assert page.evaluate("() => document.querySelector('.chart > .scroll').scrollLeft") > 20
    assert page.evaluate(in_view, ["#content .chart rect[class^=s][x]", ".chart > .scroll"])
    page.screenshot(path=screenshots / "narrow-dashboard.png")
    for path in ("/dashboard", "/audit", "/"):
        page.goto(path)
        assert page.evaluate(in_view, [".top nav a[aria-current]", ".top nav ul"]), path
        assert page.evaluate("() => scrollY") == 0
    assert opened.errors == []
    opened.close()


def test_the_audit_log_is_read_without_scrolling(reader, study, screenshots):
    page = reader.page
    page.goto("/audit")
    page.screenshot(path=screenshots / "audit.png")
    lines = "element => element.getClientRects().length"
    assert {time.evaluate(lines) for time in page.locator(".log time").all()} == {1}
    assert page.locator(".panel .scroll").evaluate("box => box.scrollWidth - box.clientWidth") <= 0


def test_a_film_from_the_form_to_the_diagnosis(reader, film_file):
    page = reader.page
    reader.send(film_file, age_years="4", reference="Case 7")
    reader.wait_for_answer()
    assert page.locator("h1").inner_text() == "Case 7"
    assert page.locator(".verdict h2").inner_text() == "Pneumonia likely"
    page.check("#diagnosis-bacterial")
    page.check("#consent-yes")
    page.fill("#comment", "Right lower lobe.\nFollow up.")
    page.click("text=Save the diagnosis")
    page.wait_for_selector("text=The diagnosis is saved.")
    assert "Right lower lobe.\nFollow up." in page.locator("blockquote").first.inner_text()


def test_a_batch_of_good_and_broken_films(reader, tmp_path, film_file, screenshots):
    page = reader.page
    files = {
        "text.png": b"this is no picture",
        "truncated.dcm": dicom_film(0.5)[:1500],
        "negative.dcm": dicom_film(0.1),
        "empty.dcm": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    page.goto("/upload")
    page.set_input_files("#films", [str(film_file), *(str(tmp_path / name) for name in files)])
    assert page.locator("[data-chosen] li").count() == 5
    page.click("button[type=submit]")
    page.wait_for_url("**/batches/*")
    _wait(lambda: page.evaluate("() => document.querySelector('progress').value") == 4)
    page.screenshot(path=screenshots / "batch.png", full_page=True)
    names = page.locator("[data-name-of-file]").all_inner_texts()
    rows = dict(zip(names, page.locator("td .outcome").all_inner_texts(), strict=True))
    assert rows == {
        film_file.name: "Pneumonia likely",
        "text.png": "Not readable",
        "truncated.dcm": "Not readable",
        "negative.dcm": "Pneumonia unlikely",
    }
    assert page.locator("[role=status][data-said]").inner_text() == "4 of 4 images examined"
    page.evaluate("() => sessionStorage.clear()")
    page.reload()
    assert film_file.name not in page.content()
    (error,) = reader.errors  # the browser's own note about the empty file
    assert "422" in error
    reader.errors.clear()


def test_films_are_dropped(reader, film_file):
    page = reader.page
    page.goto("/upload")
    content = list(film_file.read_bytes())
    page.evaluate(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "dropped.png"));
            for (const kind of ["dragenter", "dragover", "drop"]) {
                const how = { dataTransfer: transfer, bubbles: true, cancelable: true };
                document.querySelector("[data-drop]").dispatchEvent(new DragEvent(kind, how));
            }
        }""",
        content,
    )
    assert page.locator("[data-chosen] li").inner_text().startswith("dropped.png")
    page.click("button[type=submit]")
    reader.wait_for_answer()


def test_the_form_says_that_nothing_was_chosen(reader):
    reader.page.goto("/upload")
    reader.page.evaluate("() => document.querySelector('#films').removeAttribute('required')")
    reader.page.click("button[type=submit]")
    assert reader.page.locator("[data-said]").inner_text() == "Choose at least one image."


def test_without_scripts(chromium, address, film_file):
    opened = Reader(chromium, address, java_script_enabled=False)
    opened.send(film_file)
    over = time.monotonic() + 20
    while opened.page.locator(".verdict.positive").count() == 0:
        assert time.monotonic() < over
        opened.page.click("text=Refresh")
    opened.page.locator("img[alt='The image']").wait_for(state="visible")
    assert not opened.page.locator("canvas").is_visible()
    opened.page.check("#diagnosis-normal")
    opened.page.click("text=Save the diagnosis")
    assert "disagrees" in opened.page.locator(".history").inner_text()
    opened.close()


def test_everything_by_keyboard(reader, study):
    page = reader.page
    page.goto(study)
    reader.wait_for_film()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "content"
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            """() => {
                const at = document.activeElement, style = getComputedStyle(at);
                return [at.tagName, at.id || at.dataset.control || at.textContent.trim(),
                        at.matches(":focus-visible") && style.outlineStyle !== "none"];
            }"""
        )
        assert focus[0] == "BODY" or focus[2], focus
        seen.add(focus[1])
    assert {"invert", "reset", "preset", "width", "level", "map", "opacity", "comment"} <= seen

    page.locator("canvas").focus()
    said = page.locator("[data-state]")
    for keys, state in (
        (["3"], "Window 150, level 176, zoom 100 %"),
        (["+", "+"], "Window 150, level 176, zoom 156 %"),
        (["ArrowLeft", "Shift+ArrowUp", "Shift+ArrowRight"], "Window 158, level 180, zoom 156 %"),
        (["0"], "Window 256, level 128, zoom 100 %"),
    ):
        for key in keys:
            page.keyboard.press(key)
        _wait(lambda state=state: said.inner_text() == state)
    page.keyboard.press("i")
    page.locator("[data-control=invert][aria-pressed=true]").wait_for()
    page.keyboard.press("h")
    assert page.locator("#map").input_value() == "bacterial"
    page.keyboard.press("h")
    assert page.locator("#map").input_value() == ""


def test_window_by_mouse_and_zoom_by_wheel(reader, study):
    page = reader.page
    page.goto(study)
    reader.wait_for_film()
    canvas, said = page.locator("canvas"), page.locator("[data-state]")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -100)
    time.sleep(0.2)
    assert said.inner_text().endswith("zoom 100 %")  # the page scrolls until the image has the focus
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 56, middle[1] + 40)
    page.mouse.up()
    _wait(lambda: said.inner_text() == "Window 200, level 148, zoom 100 %")
    canvas.focus()
    page.mouse.wheel(0, -100)
    _wait(lambda: said.inner_text().endswith("zoom 110 %"))


def test_the_film_is_drawn_as_the_project_draws_it(reader, study):
    """Grey, inverted and with the heat map: pixels of the canvas against ``inference.overlay``."""
    from pneumoscope.inference.overlay import OPACITY, overlay

    page = reader.page
    page.goto(study)
    reader.wait_for_film()
    film = _pixels(page, f"{study}/picture.jpg")
    heat = _pixels(page, f"{study}/heat/bacterial.png")
    assert np.abs(_drawn(page) - film[..., None]).max() <= 3
    page.click("[data-control=invert]")
    _wait(lambda: np.abs(_drawn(page) - (255 - film[..., None])).max() <= 3)
    page.click("[data-control=invert]")
    page.select_option("#map", "bacterial")
    assert page.locator("#opacity").input_value() == str(round(100 * OPACITY))
    strength = np.float32(heat / 255)
    wanted = overlay(np.float32(film / 255), strength).astype(int)
    _wait(lambda: np.abs(_drawn(page) - wanted).max() <= 6)
    assert all("willReadFrequently" in text for text in reader.errors)  # advice about this test's reading
    reader.errors.clear()


def _pixels(page, address):
    """A picture of the application as (H, W) int."""
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(page.request.get(address).body())).convert("L")).astype(int)


def _drawn(page):
    """The image as the viewer composes it, (H, W, 3) int on the image's own grid."""
    values = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas");
            const [width, height] = [160, 120];
            canvas.style.width = `${width}px`;
            canvas.style.height = `${height}px`;
            canvas.style.minHeight = "0";
            return new Promise(resolve => setTimeout(() => {
                const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
                resolve(Array.from(data));
            }, 200));
        }"""
    )
    return np.array(values).reshape(120, 160, 4)[..., :3]


def test_the_language_is_switched_in_the_header(reader, study):
    page = reader.page
    page.goto(study)
    page.locator("summary", has_text="English").click()
    page.click("button[lang=fr]")
    assert page.locator("html").get_attribute("lang") == "fr"
    assert page.url.endswith(study)
    page.locator("summary", has_text="Français").click()
    page.click("button[lang=en]")


@pytest.mark.films
def test_real_films(chromium, tmp_path, films_folder, screenshots):
    """Images of the public data sets through the shipped bundle, and pictures of something else."""
    films = [
        next((films_folder / "kermany_original").rglob("*bacteria*")),
        next((films_folder / "kermany_original").rglob("NORMAL/*")),
        films_folder / "dicom/chest/rsna_CR_mono2_jpegbaseline.dcm",
        next((films_folder / "not_chest_xray").glob("natural__*")),
    ]
    with (
        web_clinic(tmp_path, bundle="reference") as (store, handlers),
        working(store, handlers),
        served(store) as at,
    ):
        opened = Reader(chromium, at)
        page = opened.page
        opened.send(*films)
        _wait(lambda: page.evaluate("() => document.querySelector('progress').value") == len(films), 60)
        page.screenshot(path=screenshots / "films-batch.png", full_page=True)
        assert page.locator("tr .outcome.failed").count() == 0
        assert page.locator("tr .outcome").nth(3).inner_text() == "Refused"
        links = [link.get_attribute("href") for link in page.locator("tbody a").all()]
        for number, link in enumerate(links):
            page.goto(link)
            opened.wait_for_film()
            if page.locator("#map").count():
                page.select_option("#map", index=1)
                time.sleep(0.3)
            page.screenshot(path=screenshots / f"films-{number}.png", full_page=True)
        assert opened.errors == []
        opened.close()


def _named(path):
    return re.sub(r"\W+", "-", path.split("/")[1]) or "worklist"
