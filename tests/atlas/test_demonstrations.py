"""Latent Slider, Counterfactual Machine and figure F3 of a small run: data of the pages, browser, app, notebook."""

import base64
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from atlas.training_helpers import ROOT, run

from neuromf.figures import atlas_traversal
from neuromf.report.atlas import pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOTEBOOK = ROOT / "docs/notebooks/atlas_latent_slider.ipynb"


@pytest.fixture(scope="module")
def trained(mock_studies, tmp_path_factory):
    """A run whose decoder uses z: weights of the last layer are not small after a few steps."""
    folder = tmp_path_factory.mktemp("run")
    atlas = run(folder, mock_studies, train={"steps": 6, "lr": 2e-2})
    return atlas, folder / "run"


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory):
    """Both pages."""
    folder = tmp_path_factory.mktemp("pages")
    pages.write_latent_slider(checkpoint=trained[1], out=folder / "slider.html")
    pages.write_counterfactual(checkpoint=trained[1], out=folder / "counterfactual.html")
    return folder


def embedded(page):
    """Options and maps (*options, V) that a page holds."""
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(), re.S)[1])
    levels = np.frombuffer(base64.b64decode(data["maps"]), np.uint8).reshape(*map(len, data["options"].values()), -1)
    return data, data["low"] + levels / 255 * (data["high"] - data["low"])


def test_A22_the_slider_holds_the_decoded_maps_and_both_ends_differ(trained, built):
    atlas, _ = trained
    data, maps = embedded(built / "slider.html")
    first = int(re.match(r"z(\d+)", data["options"]["dimension"][0])[1]) - 1
    assert maps.shape == (atlas.z_dim, 7, atlas.grid.n_voxels)
    z = torch.zeros(1, atlas.z_dim)
    z[0, first] = 3.0
    expected = atlas.grid.vector(atlas.decode(z)[0].numpy())
    np.testing.assert_allclose(maps[0, 6], expected, atol=0.51 * (data["high"] - data["low"]) / 255)
    voxels = np.frombuffer(base64.b64decode(data["voxels"]), "<u4")
    np.testing.assert_array_equal(voxels, np.flatnonzero(atlas.grid.mask))


def test_A32_a_change_of_topic_changes_the_map_and_unknown_fields_are_missing(trained, built):
    atlas, _ = trained
    data, maps = embedded(built / "counterfactual.html")
    assert data["options"]["topic"][0] == data["options"]["year"][0] == "unknown"
    assert np.corrcoef(maps[1, 0], maps[2, 0])[0, 1] < 0.7
    nothing = atlas.grid.vector(atlas.decode(torch.zeros(1, atlas.z_dim))[0].numpy())
    np.testing.assert_allclose(maps[0, 0], nothing, atol=0.51 * (data["high"] - data["low"]) / 255)


def test_A76_both_pages_of_mock_studies_are_stamped_and_load_nothing(built):
    for page in built.glob("*.html"):
        text = page.read_text()
        assert "Mock data: simulated foci" in text and "default-src 'none'" in text
        assert not re.search(r"(?:src|href)=[\"']?http", text)


def test_A32_an_unconditional_model_has_no_counterfactual(trained, monkeypatch, tmp_path):
    atlas, folder = trained
    monkeypatch.setattr(atlas, "schema", None)
    monkeypatch.setattr(pages, "load_atlas", lambda _: atlas)
    with pytest.raises(ValueError, match="train the preset cvae"):
        pages.write_counterfactual(checkpoint=folder, out=tmp_path / "page.html")


def test_the_figure_of_traversals_has_all_panels_and_its_facts(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_traversal, "N_DIMENSIONS", 1)  # nilearn draws a glass brain in two seconds
    atlas, folder = trained
    atlas_traversal.render(checkpoint=folder, out=tmp_path / "fig_3")
    assert json.loads((tmp_path / "fig_3.json").read_text())["scale"] == "mock"
    assert (tmp_path / "fig_3.png").stat().st_size > 50_000


@pytest.fixture
def tab():
    """Opens a page in headless Chromium; the test fails if the page logs a message or requests an address."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    messages, requests = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])

        def visit(path, width=1280):
            page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
            page.on("console", lambda message: messages.append(message.text))
            page.on("pageerror", lambda error: messages.append(str(error)))
            page.on("request", lambda request: requests.append(request.url[:80]))
            page.goto(path.as_uri())
            return page

        yield visit
        browser.close()
    assert not messages and all(url.startswith(("file:", "data:")) for url in requests)


def picture(page, plate, plane=0):
    return page.eval_on_selector_all(f"#{plate} canvas", "all => all.map(each => each.toDataURL())")[plane]


def test_A22_the_slider_follows_the_keyboard_in_a_browser(tab, built):
    page = tab(built / "slider.html")
    before, text = picture(page, "map"), page.locator("#map output").inner_text()
    page.locator("#value").focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    assert "value -3" in page.locator("#map output").inner_text() != text
    assert picture(page, "map") != before
    page.locator("#value").press("ArrowRight")
    page.locator("#value").press("ArrowRight")
    page.locator("#value").press("ArrowRight")
    assert page.locator("#change output").inner_text() == "r 1.000"  # the prior mean itself


@pytest.mark.parametrize("width", [390, 1280])
def test_A32_the_counterfactual_follows_the_topic_in_a_browser(tab, built, width):
    page = tab(built / "counterfactual.html", width)
    before = picture(page, "change", 2)
    page.locator("#topicB").select_option(index=3)
    assert picture(page, "change", 2) != before
    page.locator("#topicA").select_option(index=3)
    assert page.locator("#change output").inner_text() == "r 1.000"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_A32_the_streamlit_app_passes_streamlits_own_runner(trained, monkeypatch):
    testing = pytest.importorskip(
        "streamlit.testing.v1", reason="streamlit is not installed (pip install 'neuromf[atlas-pages]')"
    )
    monkeypatch.setenv("NEUROMF_ATLAS", str(trained[1]))
    app = testing.AppTest.from_file(str(ROOT / "neuromf/report/atlas/app.py"), default_timeout=120).run()
    assert not app.exception and "Mock data" in app.warning[0].value
    before = app.metric[0].value
    app.selectbox[0].set_value(app.selectbox[0].options[3]).run()
    assert not app.exception and app.metric[0].value != before


def test_A22_the_notebook_has_no_output():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
def test_A22_the_notebook_runs_headless(trained, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (pip install 'neuromf[atlas-pages]')")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (pip install 'neuromf[atlas-pages]')")
    monkeypatch.setenv("NEUROMF_ATLAS", str(trained[1]))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    text = "".join(output.get("text", "") for output in notebook.cells[2].outputs)
    assert "r of the maps at -3 and +3 is" in text
