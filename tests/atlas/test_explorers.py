"""Confidence Explorer, Hierarchy Explorer and timeline: data of the pages, and what they do in a browser."""

import base64
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from atlas.test_demonstrations import CHROMIUM
from atlas.training_helpers import ROOT, run

from neuromf.atlas import hierarchy, uncertainty
from neuromf.atlas.ensemble import load_ensemble
from neuromf.atlas.ensemble_training import train_ensemble
from neuromf.atlas.point_training import train_points
from neuromf.atlas.preparation import write_maps
from neuromf.config.atlas_points import read_point_preset
from neuromf.config.atlas_uncertainty import read_ensemble_preset
from neuromf.core.files import write_json
from neuromf.figures import atlas_hierarchy, atlas_uncertainty
from neuromf.report.atlas import explorers

WORDS = ["pain heat", "motor hand", "reading words", "fear faces"]


@pytest.fixture(scope="module")
def confidence(mock_studies, tmp_path_factory):
    """Folder with a page of the Confidence Explorer and everything behind it."""
    folder = tmp_path_factory.mktemp("confidence")
    run(folder, mock_studies, train={"steps": 4, "lr": 2e-2})
    write_maps(folder / "studies", folder / "12.npy", grid="6mm", fwhm_mm=12.0, combine="noisy_or")
    small = {"model": {"decoder_width": 4}, "train": {"steps": 5, "batch": 8, "warmup": 0}}
    inputs = {"studies": folder / "studies", "checkpoint": folder / "run/checkpoint"}
    train_ensemble(**inputs, maps=folder / "12.npy", out=folder / "ensemble", kind="snapshot",
                   **read_ensemble_preset(ROOT / "studies/atlas/ensemble.yaml", small))  # fmt: skip
    points = read_point_preset(ROOT / "studies/atlas/points.yaml")
    points["train"] |= {"steps": 2, "batch": 8, "log_every": 1}
    train_points(studies=folder / "studies", schema=folder / "schema.json", out=folder / "points", **points)
    uncertainty.evaluate_calibration(run=folder / "ensemble", **inputs, out=folder / "calibration.json", n_studies=4)
    explorers.write_confidence(run=folder / "ensemble", **inputs, points=folder / "points/checkpoint",
                               out=folder / "confidence.html")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Folder with a tree of four topics, its gate and its page."""
    folder = tmp_path_factory.mktemp("tree")
    random = np.random.default_rng(0)
    np.savez(folder / "tree.npz", children=[[0, 1], [2, 3], [4, 5]], heights=[1.0, 1.5, 3.0], words=np.array(WORDS),
             maps=random.random((7, 10_534)).astype(np.float32))  # fmt: skip
    numbers = {"mse_hierarchical": 1.0, "mse_flat": 0.8, "kl_z2": 2.0, "modularity": 0.3, "skip_gradient": 0.0,
               "modularity_null_95": 0.4}  # fmt: skip
    gate = hierarchy.stage_gate(numbers, {"r": 0.2, "null_95": 0.1})
    write_json(folder / "gate.json", gate | {"scale": "mock", "statement": "Mock data: a test", "manifest": "0" * 16})
    explorers.write_hierarchy_page(gate=folder / "gate.json", tree=folder / "tree.npz", out=folder / "hierarchy.html")
    return folder


@pytest.fixture(scope="module")
def timeline(tmp_path_factory):
    """Page of a timeline in which the year 2018 has no studies."""
    folder, random = tmp_path_factory.mktemp("timeline"), np.random.default_rng(0)
    n = np.array([5] * 21 + [0])
    maps = random.random((22, 10_534)) * (n > 0)[:, None]
    np.savez(folder / "t.npz", years=np.arange(1997, 2019), n=n, maps=maps.astype(np.float32), scale="mock",
             topics=random.dirichlet(np.ones(4), 22), words=np.array(WORDS), projection="pca", manifest="0" * 16,
             position=random.random((105, 2)), position_year=np.repeat(np.arange(1997, 2018), 5),
             drift_year=np.arange(1998, 2018), drift_raw=np.ones(20), drift_unbiased=np.zeros(20))  # fmt: skip
    explorers.write_timeline_page(timeline=folder / "t.npz", out=folder / "timeline.html")
    return folder / "timeline.html"


def embedded(page):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(), re.S)[1])


def values_of(stored, n):
    levels = np.frombuffer(base64.b64decode(stored["maps"]), np.uint8).reshape(n, -1)
    return stored["low"] + levels / 255 * (stored["high"] - stored["low"])


def test_A46_the_page_has_three_layers_of_its_studies_and_their_points(confidence):
    data = embedded(confidence / "confidence.html")
    assert list(data["layers"]) == ["mean", "epistemic", "aleatoric"]
    n = len(data["studies"])
    assert n == 8 and all(one["original"] and len(one["reconstructed"]) == 30 for one in data["studies"])
    table = pd.read_csv(confidence / "studies/studies.tsv", sep="\t")
    test = set(table.loc[table["split"] == "test", "title"])
    assert {one["title"] for one in data["studies"]} <= test
    layers = {name: values_of(stored, n) for name, stored in data["layers"].items()}
    assert all(values.shape == (n, 10_534) for values in layers.values())
    assert layers["aleatoric"].max() > layers["epistemic"].max() > 0
    assert load_ensemble(confidence / "ensemble", confidence / "run").card["scale"] == "mock"


@pytest.mark.parametrize("name", ["confidence", "tree", "timeline"])
def test_A76_explorers_of_mock_studies_are_stamped_and_load_nothing(name, request):
    found = request.getfixturevalue(name)
    page = found if found.is_file() else next(found.glob("*.html"))
    text = page.read_text()
    assert "Mock data: simulated foci" in text and "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=[\"']", text)


def test_A50_the_figure_of_the_tree_has_a_map_per_node(tree, tmp_path):
    atlas_hierarchy.render(gate=tree / "gate.json", tree=tree / "tree.npz", out=tmp_path / "fig_6")
    facts = json.loads((tmp_path / "fig_6.json").read_text())
    assert facts["verdict"] == "no-go" and len(facts["criteria"]) == 6
    assert (tmp_path / "fig_6.png").stat().st_size > 20_000


def test_A46_the_figure_of_calibration_has_its_facts(confidence, tmp_path):
    atlas_uncertainty.render(run=confidence / "ensemble", checkpoint=confidence / "run/checkpoint",
                             studies=confidence / "studies", table=confidence / "calibration.json",
                             out=tmp_path / "fig_4")  # fmt: skip
    assert json.loads((tmp_path / "fig_4.json").read_text())["kind"] == "snapshot"
    assert (tmp_path / "fig_4.png").stat().st_size > 30_000


@pytest.fixture
def tab():
    """Opens a page in headless Chromium; the test fails if the page logs a message or requests an address."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
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


def picture(page, selector):
    return page.eval_on_selector(selector, "one => one.toDataURL()")


@pytest.mark.parametrize("width", [390, 1280])
def test_A46_layers_and_points_render_in_a_browser(tab, confidence, width):
    page = tab(confidence / "confidence.html", width)
    layers = []
    for k in range(3):
        page.locator("#layer").select_option(index=k)
        layers.append(picture(page, "#map canvas"))
    assert len(set(layers)) == 3
    before = picture(page, "#points")
    page.locator("#points").press("ArrowRight")
    turned = picture(page, "#points")
    page.locator("#study").select_option(index=1)
    assert len({before, turned, picture(page, "#points")}) == 3
    assert "foci" in page.locator("#facts").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 1280])
def test_A50_a_click_on_a_node_changes_the_map_in_a_browser(tab, tree, width):
    page = tab(tree / "hierarchy.html", width)
    assert page.locator(".tree circle").count() == 7 and "no-go" in page.locator("table").inner_text()
    before = picture(page, "#map canvas")
    page.locator('.tree circle[data-node="4"]').click()
    assert picture(page, "#map canvas") != before
    assert page.locator("#facts").inner_text().endswith("pain heat; motor hand")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 1280])
def test_A55_the_timeline_has_22_frames_in_a_browser(tab, timeline, width):
    page = tab(timeline, width)
    assert page.locator("#year").get_attribute("max") == "21"
    years = []
    for _ in range(22):
        years.append(page.locator("#facts").inner_text())
        page.locator("#year").press("ArrowRight")
    assert [text[:4] for text in years] == [str(year) for year in range(1997, 2019)]
    assert years[0] == "1997: 5 studies." and years[-1] == "2018: no studies."
    page.locator("#play").click()
    for _ in range(50):
        page.wait_for_timeout(200)
        if page.locator("#year").input_value() != "21":
            break
    assert page.locator("#year").input_value() != "21"
    assert page.locator("#play").inner_text() == "Pause"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_A50_a_page_above_the_limit_is_refused(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(explorers, "LIMIT", 1000)
    shutil.copy(tree / "tree.npz", tmp_path)
    with pytest.raises(ValueError, match="the limit is"):
        explorers.write_hierarchy_page(gate=tree / "gate.json", tree=tmp_path / "tree.npz", out=tmp_path / "p.html")
