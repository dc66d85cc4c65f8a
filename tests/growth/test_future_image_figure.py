"""Figure F5 and the headline plate: drawn from tables and slices alone, with provenance."""

import json

import numpy as np
import pandas as pd
import pytest
from growth.figure_helpers import check_figure
from matplotlib.figure import Figure

from neuromf.figures import growth_future_image as figure
from neuromf.growth.forecast_study import simulated_study
from neuromf.growth.image_forecast import compare_masks, slices, verdict

SIDE = 16
DISTANCE = np.linalg.norm(np.indices((SIDE,) * 3) - SIDE / 2, axis=0)
STATEMENT = "Simulated growth in generated anatomy"


def write_forecasts(folder, n=7):
    """Files of the rule growth_image_forecast for tumours of radius 3 + k / 2 that grow by 1."""
    scans, masks, images, visits = {}, {}, {}, []
    for k in range(n):
        for visit in range(2):
            name = f"p{k}-{visit}"
            scans[name] = {"patient": np.array(f"p{k}")}
            masks[name] = DISTANCE < 3 + k / 2 + visit
            images[name] = 3.0 * masks[name] + 0.1
        visits.append([f"p{k}-0", f"p{k}-1"])
    decoded = {kind: np.stack([images[names[place]] for names in visits])
               for kind, place in (("line", 1), ("ODE", 1), ("last image", 0))}  # fmt: skip
    table = compare_masks(visits, {kind: one > 1.5 for kind, one in decoded.items()}, scans, masks)
    table.to_csv(folder / "images.csv", index=False)
    (folder / "images.json").write_text(json.dumps(verdict(table)))
    np.savez(folder / "images.npz", threshold=1.5, **slices(visits, images, masks, decoded))
    return {"table": folder / "images.csv", "examples": folder / "images.npz", "verdict": folder / "images.json"}


@pytest.mark.critical
def test_G71_figure_f5_is_pdf_and_png_with_provenance_and_the_verdict(tmp_path):
    figure.render(**write_forecasts(tmp_path), out=tmp_path / "fig_5", simulated=STATEMENT, study="test")
    facts = check_figure(tmp_path / "fig_5", STATEMENT)
    assert facts["study"] == "test" and facts["verdict"]["comparisons"][0]["outcome"] == "exceeds"


@pytest.mark.critical
def test_G71_the_headline_plate_has_volumes_and_images(tmp_path):
    settings = {"n_train": 14, "n_test": 14, "seed": 0, "models": ["M0", "M1", "M3"], "ode": {"epochs": 1}}
    for name in ("gompertz", "treated"):
        simulated_study(out=tmp_path / name, growth_model=name, **settings)
    folders = [tmp_path / "gompertz", tmp_path / "treated"]
    figure.render_headline(
        folders=folders, **write_forecasts(tmp_path), out=tmp_path / "headline", simulated=STATEMENT, study="test"
    )
    facts = check_figure(tmp_path / "headline", STATEMENT)
    assert facts["verdicts"].keys() == {"gompertz", "treated"} and facts["verdict"]["comparisons"]


def test_patients_of_figure_f5_grow_by_different_amounts(tmp_path):
    with np.load(write_forecasts(tmp_path)["examples"]) as arrays:
        chosen = figure.choose(arrays, 3)
        growth = arrays["truth_mask"].sum((1, 2)) - arrays["last_mask"].sum((1, 2)).astype(int)
        assert len(set(chosen)) == 3 and np.all(np.diff(growth[chosen]) > 0)
        assert figure.choose(arrays, 2) == chosen[1:]


def test_contours_are_the_true_mass_and_what_is_above_the_threshold(tmp_path):
    with np.load(write_forecasts(tmp_path)["examples"]) as found:
        arrays = dict(found)
    drawn = Figure()
    axes = figure.images(drawn, arrays, 1)[0]
    assert [len(ax.collections) for ax in axes] == [2, 1, 2, 2, 2]  # the truth has its own mass alone
    arrays["line"] = 0 * arrays["line"]
    assert len(figure.images(Figure(), arrays, 1)[0][2].collections) == 1  # a forecast without a mass has no contour


def test_the_dice_panel_has_every_patient_and_the_mean(tmp_path):
    table = pd.read_csv(write_forecasts(tmp_path)["table"])
    ax = Figure().subplots()
    figure.dice(ax, table)
    means = [line.get_ydata()[0] for line in ax.lines[1::2]]
    wide = table.pivot(index="patient", columns="kind", values="dice")
    assert means == pytest.approx([wide[kind].mean() for kind in figure.KINDS])
    assert all(len(line.get_ydata()) == 7 for line in ax.lines[::2])
