"""The page in a real browser: headless Chromium, driven by Playwright.

With VDD_SCREENSHOTS=FOLDER the page is also drawn: at a desk, at night, on a phone.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.app_server import running
from vdd.app.examples import EXAMPLES

pytestmark = pytest.mark.slow
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
READY, PATIENCE = "#examples .thumbnail-item", 60_000  # milliseconds
WIDE, NARROW = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if find_spec("gradio") is None:
        pytest.skip("the page needs Gradio: pip install 'visual-debias-decoding[app]'")
    with running(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    if find_spec("playwright") is None:
        pytest.skip("a browser is driven by Playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page, ready; afterwards: nothing was asked of any other address, and no script failed."""
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    page = context.new_page()
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    page.wait_for_selector(READY)
    yield page
    context.close()
    outside = {url for url in asked if not url.startswith(("data:", "blob:")) and urlsplit(url).port != server.port}
    assert outside == set()
    assert failed == []
    assert "Traceback" not in server.said.read_text("utf-8")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def upload(page, content: bytes, name: str = "fox.png") -> None:
    """Give the page a file, in the place of the one that is there."""
    remove = page.locator("#picture button[aria-label=Clear], #picture button[title=Clear]")
    if remove.count():
        remove.first.click()
    chosen = {"name": name, "mimeType": "image/png", "buffer": content}
    with page.expect_response(re.compile("/gradio_api/upload")):
        page.locator("#picture input[type=file]").set_input_files(chosen)
    page.wait_for_selector("#picture img")


def write(page, field: str, text: str) -> None:
    page.locator(f"{field} textarea, {field} input").first.fill(text)


def answers(page, how: str = "") -> dict[str, str]:
    """What stands in the cards when the answers are whole, and made as `how` says."""
    wait(page, "#vdd footer", re.compile(f"{re.escape(how)}.*token", re.DOTALL))
    return {name: page.locator(f"#{name} .text").inner_text() for name in ("plain", "vdd")} | {
        "post-hoc": page.locator("#post-hoc .body").inner_text()
    }


def wait(page, where: str, text: str | re.Pattern[str]) -> None:
    """Until it stands there."""
    from playwright.sync_api import expect

    expect(page.locator(where)).to_contain_text(text, timeout=PATIENCE)


def note(page) -> str:
    page.wait_for_selector("#note .vdd-note")
    return page.locator("#note").inner_text()


def test_an_uploaded_image_is_asked_about_and_alpha_changes_the_answer(page):
    example = EXAMPLES[4]
    upload(page, png(example.image))
    write(page, "#question", example.question)
    page.click("#ask button, button#ask")
    first = answers(page, "α = 1,")
    assert (first["plain"], first["vdd"]) == ("yes", "yes")
    slider = page.locator("#alpha input[type=range]")
    slider.focus()
    slider.evaluate(
        "(e) => { e.value = 3; e.dispatchEvent(new Event('input', {bubbles: true})); "
        "e.dispatchEvent(new PointerEvent('pointerup', {bubbles: true})); }"
    )
    later = answers(page, "α = 3,")
    assert (later["plain"], later["vdd"]) == ("yes", "no")
    assert page.locator(".vdd-bars tbody tr").count() == 2


def test_an_example_is_answered_by_a_click_with_colours_and_bars(page):
    page.locator(READY).nth(0).click()
    said = answers(page)
    assert (said["plain"], said["vdd"]) == ("brown", "red")
    assert said["post-hoc"].startswith("red")
    assert page.locator("#vdd .vdd-reliance span[title*='nats']").first.get_attribute("title").startswith("+")
    assert page.locator("#plain .vdd-reliance span[title*='nats']").first.get_attribute("title").startswith("−")
    rows = page.locator(".vdd-bars tbody th").all_inner_texts()
    assert rows == list(EXAMPLES[0].labels)
    widths = page.locator(".vdd-bars tbody tr").nth(rows.index("brown")).locator(".track i")
    seen, blind, debiased = (widths.nth(column).bounding_box()["width"] for column in range(3))
    assert blind > seen > debiased


def test_what_a_visitor_writes_is_no_template_and_no_markup(page):
    hostile = "${6*7}{{value}}<b>x</b>"
    page.locator(READY).nth(0).click()
    answers(page)
    write(page, "#labels", f"red, {hostile}")
    page.click("#ask button, button#ask")
    wait(page, ".vdd-bars", hostile)
    assert page.locator(".vdd-bars tbody th").all_inner_texts() == ["red", hostile]
    write(page, "#labels", hostile)
    page.click("#ask button, button#ask")
    assert f"One possible answer came ('{hostile}')" in note(page)


def test_a_long_answer_streams_and_another_reference_is_asked_again(page):
    page.evaluate(
        "() => { window.seen = new Set(); new MutationObserver(() => { const e = document.querySelector('#vdd .text'); "
        "if (e) window.seen.add(e.textContent); }).observe(document.querySelector('#result'), "
        "{childList: true, subtree: true, characterData: true}); }"
    )
    page.locator(READY).nth(1).click()
    said = answers(page, "against no image")
    assert said["plain"].endswith("banana at the bottom right.")
    assert said["vdd"].endswith("fox at the bottom right.")
    assert page.evaluate("() => window.seen.size") >= 3
    page.click("#reference input")
    page.locator("[role=option]", has_text="noise").click()
    answers(page, "against noise for the image")


def test_broken_giant_and_missing_images_and_questions_get_a_message_in_words(page):
    page.click("#ask button, button#ask")
    assert "There is no image yet" in note(page)
    upload(page, b"this is no image", "broken.png")
    wait(page, "#note", "broken.png: not an image")
    write(page, "#question", "What is it?")
    page.click("#ask button, button#ask")
    assert "broken.png: not an image; wanted JPEG, PNG" in note(page)
    giant = Image.new("1", (20_000, 20_000))
    upload(page, png(giant), "giant.png")
    wait(page, "#note", "giant.png: Image size (400000000")
    page.click("#ask button, button#ask")
    assert "wanted at most 89,478,485" in note(page)
    upload(page, png(EXAMPLES[0].image))
    page.wait_for_selector("#note .vdd-note", state="detached")
    write(page, "#question", "What is <image>?")
    page.click("#ask button, button#ask")
    assert "holds '<image>'" in note(page)
    write(page, "#question", "")
    page.click("#ask button, button#ask")
    wait(page, "#note", "The question is empty")
    write(page, "#question", EXAMPLES[0].question)
    page.click("#ask button, button#ask")
    assert answers(page)["vdd"] == "red"
    assert page.locator("#note .vdd-note").count() == 0


def test_a_file_that_is_too_large_is_refused_before_it_is_looked_at(page, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(21 * 2**20))
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "large.png")
    page.wait_for_selector("[data-testid=toast-body]")
    assert "size" in page.locator("[data-testid=toast-body]").inner_text().lower()


def test_a_model_that_is_not_there_is_said_and_the_page_goes_on(page):
    page.click("#models button")
    write(page, "#model", "/nowhere/at-all")
    page.click("#load button, button#load")
    wait(page, "#model-note", "could not be loaded")
    page.locator(READY).nth(0).click()
    assert answers(page)["vdd"] == "red"


def test_a_model_of_a_folder_is_loaded_by_its_name(page, toy, tmp_path):
    model, processor = toy
    model.save_pretrained(tmp_path / "own")
    processor.save_pretrained(tmp_path / "own")
    page.click("#models button")
    write(page, "#model", str(tmp_path / "own"))
    page.click("#load button, button#load")
    wait(page, "#model-note", "is open (llava")
    assert f"Model: {tmp_path / 'own'}" in page.locator("#models").inner_text()
    page.locator(READY).nth(0).click()
    assert answers(page)["vdd"] == "red"


def test_two_visitors_at_once_see_their_own_answers(browser, server, page):
    other = browser.new_context(viewport=NARROW).new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(server.url)
    other.wait_for_selector(READY)
    page.locator(READY).nth(1).click()
    other.locator(READY).nth(3).click()
    assert answers(other)["vdd"] == "purple"
    assert answers(page)["vdd"].endswith("fox at the bottom right.")
    other.context.close()


@pytest.mark.parametrize(
    ("name", "size", "scheme"), [("desk", WIDE, "light"), ("night", WIDE, "dark"), ("phone", NARROW, "light")]
)
def test_the_page_fits_a_desk_the_night_and_a_phone(browser, server, name, size, scheme):
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    page.wait_for_selector(READY)
    page.locator(READY).nth(1).click()
    answers(page)
    inner, outer = page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
    assert inner <= outer
    for card in ("#plain", "#vdd", "#post-hoc"):
        box = page.locator(card).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= outer
    folder = os.environ.get("VDD_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(500)
        page.screenshot(path=Path(folder) / f"app-{name}.png", full_page=True)
    context.close()
