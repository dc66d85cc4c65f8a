"""Figures 4, 5 and 6 have the values of their tables and name missing arms."""

import json

import numpy as np
import pandas as pd
import pytest

from neuromf.data.nifti import write_volume
from neuromf.data.participants import write_table
from neuromf.figures import loss_exponent, nfe_curve, prediction
from neuromf.metrics.ablations import Metric, write_rows
from neuromf.metrics.table import set_columns
from workflow_scripts import fig_4 as script_4
from workflow_scripts import fig_5 as script_5
from workflow_scripts import fig_6 as script_6

DISTANCE, SIMILARITY = ("frechet", "pca4"), ("pair_ms_ssim", "")
ONE = {("meanflow", 0): {1: 20.0, 10: 24.0}, ("rectified", 0): {1: 180.0, 10: 60.0}}
THREE = {("x", seed): {1: 20.0 + seed, 10: 24.0 + 2 * seed} for seed in range(3)}


def rows_of(values, gone=()):
    """A table of an ablation: values by arm and seed, then by NFE; arms and seeds in `gone` were not measured."""
    rows = []
    for (arm, seed), distances in values.items():
        about = {"ablation": "q", "arm": arm, "seed": seed, "run": f"q-{arm}-s{seed}"}
        for which, value in {"test": 15.0, **distances}.items():
            n = 48 if which == "test" else 40
            ends = {"low": value + 1, "high": value + 5}  # bootstrap intervals lie above the value
            rows.append(
                {**about, **set_columns(which), "metric": "frechet", "features": "pca4", "n": n, "value": value, **ends}
            )
            rows.append(
                {**about, **set_columns(which), "metric": "pair_ms_ssim", "features": "", "n": 16, "value": value / 40}
            )
    rows += [{"ablation": "q", "arm": arm, "seed": seed, "run": "gone", "set": "", "metric": "", "features": ""}
             for arm, seed in gone]  # fmt: skip
    return pd.DataFrame(rows)


def line_of(ax, start):
    """Points of the one line whose label starts with `start`."""
    (line,) = (line for line in ax.lines if str(line.get_label()).startswith(start))
    return line.get_xydata()


def texts(fig):
    """Texts of a figure and its subfigures outside of axes."""
    parts = [fig, *fig.subfigs, *(inner for part in fig.subfigs for inner in part.subfigs)]
    return " ".join(text.get_text() for part in parts for text in [*part.texts, part._supxlabel] if text)


def test_one_seed_is_drawn_with_its_bootstrap_intervals():
    fig = nfe_curve.draw(rows_of(ONE), *DISTANCE)
    (ax,) = fig.axes
    assert line_of(ax, "MeanFlow (40 volumes; 1 seed, bootstrap)").tolist() == [[1, 20], [10, 24]]
    assert line_of(ax, "Rectified Flow").tolist() == [[1, 180], [10, 60]]
    assert [path.vertices.tolist() for path in ax.collections[0].get_paths()] == [
        [[1, 21], [1, 25]],
        [[10, 25], [10, 29]],
    ]
    assert line_of(ax, "test participants (48 volumes)")[:, 1].tolist() == [15, 15]
    assert "missing" not in texts(fig)


def test_seeds_are_drawn_as_their_mean_and_standard_deviation():
    (ax,) = nfe_curve.draw(rows_of(THREE), *DISTANCE).axes
    assert line_of(ax, "$x$-prediction (40 volumes; 3 seeds").tolist() == [[1, 21], [10, 26]]
    (bars,) = (bar for container in ax.containers for bar in container.lines[2])
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx([20, 22]), pytest.approx([24, 28])]  # s.d. 1 and 2


def test_missing_arms_and_seeds_are_named_in_figure_4():
    table = rows_of(THREE, gone=[("x", 3), ("rectified", 0), ("rectified", 1)])
    assert "missing: $x$-prediction, seed 3; Rectified Flow" in texts(nfe_curve.draw(table, *DISTANCE))
    empty = rows_of({}, gone=[("meanflow", 0)]).reindex(columns=table.columns)
    assert "missing: MeanFlow" in texts(nfe_curve.draw(empty, *DISTANCE))


def test_published_values_are_open_marks():
    published = pd.DataFrame([{"model": "Other", "nfe": 33, "value": 50.0, "source": "Doe 2024"}])
    (ax,) = nfe_curve.draw(rows_of(ONE), *DISTANCE, published=published).axes
    assert line_of(ax, "Other (published: Doe 2024)").tolist() == [[33, 50]]
    (line,) = (line for line in ax.lines if "published" in line.get_label())
    assert line.get_markerfacecolor() == "none"


def test_a_distance_with_negative_values_has_a_linear_axis():
    table = rows_of(ONE)
    assert nfe_curve.draw(table, *DISTANCE).axes[0].get_yscale() == "log"
    table.loc[table["nfe"] == 1, "value"] = -0.1
    assert nfe_curve.draw(table, *DISTANCE).axes[0].get_yscale() == "linear"


SWEEP = {(p, seed): {1: value + seed} for p, value in (("1.0", 28.0), ("2.0", 22.0), ("3.0", 30.0)) for seed in (0, 1)}
FRONT = pd.DataFrame(
    {"a": ["1.0", "2.0", "3.0"], "mean_a": [28.5, 22.5, 30.5], "mean_b": [0.71, 0.56, 0.76],
     "verdict": ["Pareto-optimal", "Pareto-optimal", "dominated"]}
)  # fmt: skip


def sweep(table):
    return loss_exponent.draw(table, FRONT, Metric(*DISTANCE), Metric(*SIMILARITY), "2.0")


def test_figure_5_has_every_seed_the_means_and_the_reference_arm():
    left, middle, _ = sweep(rows_of(SWEEP)).axes
    assert line_of(left, "mean").tolist() == [[1, 28.5], [2, 22.5], [3, 30.5]]
    seeds = [[1, 28], [1, 29], [2, 22], [2, 23], [3, 30], [3, 31]]
    assert sorted(line_of(left, "one seed").tolist()) == seeds
    assert line_of(left, "config of the study").tolist() == [[2, 22.5]]
    assert line_of(middle, "mean")[:, 1].tolist() == pytest.approx([28.5 / 40, 22.5 / 40, 30.5 / 40])
    assert line_of(middle, "test participants")[:, 1].tolist() == pytest.approx([15 / 40] * 2)


def test_the_front_is_joined_and_dominated_arms_are_open():
    right = sweep(rows_of(SWEEP)).axes[2]
    assert line_of(right, "Pareto front").tolist() == [[22.5, 0.56], [28.5, 0.71]]
    assert line_of(right, "dominated").tolist() == [[30.5, 0.76]]
    assert {text.get_text() for text in right.texts} >= {"1", "2", "3"}


def test_missing_exponents_are_named_and_other_names_of_arms_refused():
    assert "missing: 1.5; 3.0, seed 2" in texts(sweep(rows_of(SWEEP, gone=[("1.5", 0), ("3.0", 2)])))
    with pytest.raises(ValueError, match="arms of the exponent must be named by it, such as 1.5; got wide"):
        sweep(rows_of({**SWEEP, ("wide", 0): {1: 3.0}}))


@pytest.fixture
def brain():
    x = np.zeros((5, 16, 20, 12), np.float32)
    x[:, 3:13, 4:16, 2:10] = 0.5
    return x


def test_figure_6_has_every_seed_and_samples_in_one_window(brain):
    table = rows_of({**THREE, ("u", 0): {1: 60.0, 10: 40.0}})
    fig = prediction.draw(table, {"x": brain, "u": brain}, DISTANCE, spacing_mm=4.0, columns=3)
    ax = fig.subfigs[0].axes[0]
    assert line_of(ax, "$x$-prediction (3 seeds")[:, 1].tolist() == [21, 26]
    assert line_of(ax, "$u$-prediction (1 seed)")[:, 1].tolist() == [60, 40]
    assert sorted(value for line in ax.lines if len(line.get_xdata()) == 6 for value in line.get_ydata()) == [
        20, 21, 22, 24, 26, 28
    ]  # fmt: skip
    images = [image for block in fig.subfigs[1].subfigs for axes in block.axes for image in axes.images]
    assert len(images) == 2 * 2 * 3 and {image.get_clim() for image in images} == {(0.0, 1.0)}


def test_figure_6_names_an_arm_without_numbers_and_without_samples(brain):
    fig = prediction.draw(rows_of(THREE, gone=[("u", 0)]), {"x": brain, "u": []}, DISTANCE, spacing_mm=4.0)
    assert "missing: $u$-prediction" in texts(fig)
    empty = fig.subfigs[1].subfigs[1]
    assert "missing" in [text.get_text() for text in empty.texts] and not any(ax.images for ax in empty.axes)


def test_scripts_draw_from_files_and_write_their_config(brain, tmp_path):
    for name, table in (("a", rows_of(ONE)), ("lp", rows_of(SWEEP)), ("p", rows_of(THREE, gone=[("u", 0)]))):
        write_rows(table, tmp_path / f"{name}.csv")
    write_rows(FRONT.assign(question="pareto_front", ablation="q"), tmp_path / "questions.csv")
    folder = tmp_path / "x" / "nfe-1"
    folder.mkdir(parents=True)
    files = [str(folder / f"{k}.nii.gz") for k in range(4)]
    for file, volume in zip(files, brain, strict=False):
        write_volume(file, volume, 4.0 * np.eye(4))
    write_table(pd.DataFrame({"file": files}), folder / "samples.tsv")
    config = {"distance": {"metric": "frechet", "features": "pca4"}, "similarity": {"metric": "pair_ms_ssim"}}
    config |= {
        "reference_arm": "2.0",
        "spacing_mm": 4.0,
        "sampled_arms": ["x", "u"],
        "published": None,
        "study": "test",
    }
    shared = ["--config", json.dumps(config), "--out"]
    script_4.main(["--table", f"{tmp_path}/a.csv", *shared, f"{tmp_path}/fig_4"])
    lp = ["--table", f"{tmp_path}/lp.csv", "--questions", f"{tmp_path}/questions.csv"]
    script_5.main([*lp, *shared, f"{tmp_path}/fig_5"])
    samples = ["--samples", str(folder), f"{tmp_path}/u/nfe-1"]
    script_6.main(["--table", f"{tmp_path}/p.csv", *samples, *shared, f"{tmp_path}/fig_6"])
    for n in (4, 5, 6):
        assert (tmp_path / f"fig_{n}.pdf").stat().st_size and b"test" in (tmp_path / f"fig_{n}.png").read_bytes()
        assert json.loads((tmp_path / f"fig_{n}.json").read_text()) == config
