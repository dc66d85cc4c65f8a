"""The report page in headless Chromium: no errors or requests, sortable tables, keyboard control, viewer, reader."""

import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from report.report_study import put, put_study, render
from statsmodels.stats.proportion import proportion_confint

from neuromf.report.page import viewer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
DRAWN_BY_CPU = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
PANELS = "#viewer [data-panel]"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return put_study(tmp_path_factory.mktemp("study") / "results")


@pytest.fixture(scope="module")
def address(root):
    (root / "report.html").write_text(render(root), encoding="utf-8")
    return (root / "report.html").as_uri()


@pytest.fixture(scope="module")
def start():
    """One browser per set of flags."""
    with playwright.sync_playwright() as driver:
        started = {}

        def browser(*flags):
            if flags not in started:
                started[flags] = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])
            return started[flags]

        yield browser
        for each in started.values():
            each.close()


@pytest.fixture
def visit(start, address):
    """Opens the page; the test fails if the page logs a message or requests an address."""
    messages, requests = [], []

    def make(width=1280, scheme="light", flags=("--disable-gpu", "--disable-3d-apis"), of=address):
        context = start(*flags).new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
        tab = context.new_page()
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url[:80]))
        tab.goto(of)
        tab.locator("#brains").scroll_into_view_if_needed()
        return tab

    yield make
    assert not messages
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)


def column(tab, table, k):
    return tab.eval_on_selector_all(
        f"#{table} tbody tr", f"rows => rows.map(row => row.children[{k}].innerText.trim())"
    )


def sorts(tab, table):
    return tab.eval_on_selector_all(
        f"#{table} th", "headers => headers.map(header => header.getAttribute('aria-sort'))"
    )


def test_tables_are_sorted_by_click_and_keyboard_with_missing_values_last(visit):
    tab = visit()
    assert column(tab, "table-table_1", 1) == ["b", "a", "c"]
    header = tab.locator("#table-table_1 th button").nth(2)
    header.click()
    assert column(tab, "table-table_1", 1) == ["a", "b", "c"]
    assert sorts(tab, "table-table_1") == ["none", "none", "ascending"]
    header.focus()
    tab.keyboard.press("Enter")
    assert column(tab, "table-table_1", 1) == ["b", "a", "c"]
    assert sorts(tab, "table-table_1") == ["none", "none", "descending"]
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Space")
    assert column(tab, "table-table_1", 1) == ["a", "b", "c"]
    tab.locator("#table-costs th button").nth(2).click()
    assert column(tab, "table-costs", 2) == ["1", "400"]  # as numbers, not as text


def test_the_theme_follows_the_system_or_the_button(visit):
    def shade(tab):
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = shade(visit(scheme="light")), (tab := visit(scheme="dark")) and shade(tab)
    assert light != dark
    tab.locator("#theme").click()
    assert shade(tab) == light
    tab.reload()
    assert shade(tab) == light


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_phone_and_desktop_widths(visit, width):
    tab = visit(width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    images = tab.eval_on_selector_all(".plate img", "all => all.map(each => [each.naturalWidth, each.clientWidth])")
    assert images and all(natural > 0 and 0 < client <= width for natural, client in images)
    assert tab.locator(".bar").bounding_box()["y"] == 0  # the navigation bar is sticky


def test_a_figure_is_enlarged_and_closed_by_keyboard(visit):
    tab = visit()
    tab.locator("#fig_1 .enlarge").press("Enter")
    assert tab.locator("#large").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#large").is_visible()


def test_without_webgl_pictures_follow_the_slider(visit):
    tab = visit()
    first = tab.locator(f"{PANELS} img").first
    assert tab.locator(f"{PANELS} figcaption").all_inner_texts()[0] == "generated, 1 network evaluation"
    before = first.get_attribute("src")
    tab.locator("[name=nfe]").first.press("ArrowRight")
    assert tab.locator(f"{PANELS} figcaption").all_inner_texts()[0] == "generated, 50 network evaluations"
    assert first.get_attribute("src") != before
    assert "pictures of the middle planes" in tab.locator("#viewer .note").inner_text()
    assert not tab.locator("canvas").first.is_visible()


# --- reader test ---------------------------------------------------------------------------------------


@pytest.fixture
def truth(root):
    """Whether each volume of the reader test was generated."""
    return json.loads((root / "report/reader.json").read_text())["generated"]


def start_reader(tab):
    tab.locator("#reader-test [data-start]").first.click()
    return {True: tab.locator("#reader-test [data-answer='1']"), False: tab.locator("#reader-test [data-answer='0']")}


def question(tab):
    """HTML of the reader without pictures and numbers: whatever could give a volume away."""
    html = tab.locator("#reader-test").evaluate("box => box.outerHTML")
    return re.sub(r'src="[^"]*"|Volume \d+|value="\d+"', "", html)


@pytest.mark.parametrize("n_wrong", [0, 9, 24])
def test_the_reader_counts_right_answers_with_a_wilson_interval_and_names_the_wrong_ones(visit, truth, n_wrong):
    tab = visit()
    buttons, wrong = start_reader(tab), [*range(0, 24, 2), *range(1, 24, 2)][:n_wrong]
    for k, generated in enumerate(truth):
        assert tab.locator("#reader-test [role=status]").inner_text() == f"Volume {k + 1} of 24"
        buttons[generated != (k in wrong)].click()
    assert tab.locator("#reader-test h3").inner_text() == f"{24 - n_wrong} of 24 right"
    low, high = proportion_confint(24 - n_wrong, 24, method="wilson")
    score = tab.locator("#reader-test .score").inner_text()
    assert f"(95 % interval {round(100 * low)} to {round(100 * high)} %, Wilson)" in score
    assert ("does not contain 50 %" in score) == (low > 0.5 or high < 0.5)
    recognised = [sum(truth[k] == kind for k in range(24) if k not in wrong) for kind in (True, False)]
    assert f"Recognised: {recognised[0]} of 12 generated and {recognised[1]} of 12 real volumes." in score
    names, lines = ("real", "generated"), tab.locator("#reader-test .wrong li").all_inner_texts()
    expected = [f"Volume {k + 1}: {names[truth[k]]}, answered {names[not truth[k]]}" for k in sorted(wrong)]
    assert [line.strip() for line in lines] == expected
    assert tab.locator("#reader-test .right li").count() == 24 - n_wrong


def test_the_reader_shows_no_answer_before_the_end(visit, truth):
    tab = visit()
    buttons = start_reader(tab)
    first = question(tab)
    assert "answered" not in first
    pictures = set()
    for generated in truth[:-1]:
        pictures.add(tab.locator("#reader-test .axial img").get_attribute("src"))
        assert question(tab) == first
        buttons[not generated].click()
    assert question(tab) == first and len(pictures) == 23
    assert not tab.locator("#reader-test [data-part=result]").is_visible()
    buttons[True].click()
    assert tab.locator("#reader-test [data-part=result]").is_visible()


def test_the_reader_is_operated_by_keyboard(visit, truth):
    tab = visit()
    tab.locator("#reader-test [data-start]").first.focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.dataset.answer") == "1"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    status = tab.locator("#reader-test [role=status]")
    for key, n in (("g", 2), ("R", 3), ("x", 3), ("Control+g", 3), ("Enter", 4), ("Space", 5)):
        tab.keyboard.press(key)
        assert status.inner_text() == f"Volume {n} of 24", key
    for _ in range(3):  # a key that is held
        tab.keyboard.down("g")
    tab.keyboard.up("g")
    assert status.inner_text() == "Volume 6 of 24"
    for _ in range(3):
        tab.keyboard.down("Enter")
    tab.keyboard.up("Enter")
    assert status.inner_text() == "Volume 7 of 24"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.dataset.answer") == "0"
    for generated in truth[6:]:
        tab.keyboard.press("g" if generated else "r")
    assert tab.evaluate("document.activeElement.tagName") == "H3"
    given = [True, False, True, True, True, True]  # g, R, Enter, Space and two held keys
    right = 18 + sum(a == b for a, b in zip(given, truth, strict=False))
    assert tab.locator("#reader-test h3").inner_text() == f"{right} of 24 right"
    tab.keyboard.press("g")  # keys answer nothing after the end
    again = tab.locator("#reader-test [data-part=result] [data-start]")
    again.press("Enter")
    assert status.inner_text() == "Volume 1 of 24"


def test_a_double_click_answers_one_volume(visit):
    tab = visit()
    start_reader(tab)[True].dblclick()
    assert tab.locator("#reader-test [role=status]").inner_text() == "Volume 2 of 24"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "least"), [(1280, [300, 300, 300]), (390, [200, 130, 130])])
def test_slices_and_buttons_of_the_reader_fit_phone_and_desktop(visit, truth, scheme, width, least):
    tab = visit(width, scheme)
    buttons = start_reader(tab)
    images = [image.bounding_box() for image in tab.locator("#reader-test .planes img").all()]
    assert all(image["width"] >= least[k] for k, image in enumerate(images))
    assert all(image["height"] == pytest.approx(image["width"] * 30 / 24, abs=2) for image in images)
    in_view = "() => [...document.querySelectorAll('#reader-test [data-answer]')].every(button => {" \
        " const box = button.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; })"  # fmt: skip
    tab.wait_for_function(in_view, timeout=3000)  # the page scrolls to the question
    assert all(button.bounding_box()["height"] >= 44 for button in buttons.values())
    for generated in truth:
        buttons[not generated].click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def live(root, tmp_path_factory):
    """The page with the viewer bundle."""
    out = root / "report" / "viewer.js"
    if reason := viewer.build(out, root / "report/licences.txt"):
        pytest.skip(reason)
    (root / "live.html").write_text(render(root), encoding="utf-8")
    out.unlink()
    return (root / "live.html").as_uri()


def pixels(tab, k):
    with Image.open(io.BytesIO(tab.locator(f"{PANELS} canvas").nth(k).screenshot())) as image:
        return np.asarray(image.convert("L"), float)


@pytest.mark.slow
def test_the_viewer_draws_follows_the_slider_and_moves_all_crosshairs(visit, live):
    tab = visit(flags=DRAWN_BY_CPU, of=live)
    tab.locator("#viewer .note", has_text="crosshair").wait_for(timeout=60_000)
    before = [pixels(tab, k) for k in range(3)]
    assert all(image.std() > 20 for image in before)
    tab.locator("[name=nfe]").first.press("ArrowRight")
    tab.wait_for_timeout(1500)
    assert np.abs(pixels(tab, 0) - before[0]).mean() > 1  # another volume
    assert np.abs(pixels(tab, 1) - before[1]).mean() < 0.5  # the same participant
    canvas = tab.locator(f"{PANELS} canvas").nth(1)
    canvas.click(position={"x": 60, "y": 60})
    tab.wait_for_timeout(1500)
    assert np.abs(pixels(tab, 2) - before[2]).mean() > 0.5  # its crosshair follows
    tab.locator("[name=high]").press("Home")
    tab.wait_for_timeout(1500)
    assert all(pixels(tab, k).mean() > before[k].mean() + 5 for k in range(3))  # a common intensity window


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_accessibility_fault(visit, tmp_path, scheme):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    shutil.copytree(viewer.SOURCE, tmp_path / "npm")
    done = subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit"], cwd=tmp_path / "npm", capture_output=True)
    if done.returncode:
        pytest.skip("npm could not fetch axe-core")
    tab = visit(scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    tab.evaluate((tmp_path / "npm/node_modules/axe-core/axe.min.js").read_text())
    found = tab.evaluate("axe.run(document)")["violations"]
    answer = start_reader(tab)[True]
    found += tab.evaluate("axe.run('#reader')")["violations"]
    for _ in range(24):
        answer.click()
    tab.locator("#reader-test details").evaluate("details => { details.open = true; }")
    found += tab.evaluate("axe.run('#reader')")["violations"]
    put(tmp_path / "axe.json", found)
    assert not [
        (fault["id"], fault["nodes"][0]["target"]) for fault in found if fault["impact"] in ("serious", "critical")
    ]
