"""The report page in headless Chromium: no errors or requests, sortable tables, keyboard control, volume viewer."""

import io
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from report.report_study import put, put_study, render

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
    put(tmp_path / "axe.json", found)
    assert not [
        (fault["id"], fault["nodes"][0]["target"]) for fault in found if fault["impact"] in ("serious", "critical")
    ]
