"""The dashboard has the values of its tables, also if a table is short or empty."""

import inspect
import json
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

from neuromf.figures import dashboard, style
from neuromf.meanflow import diagnostics
from workflow_scripts import dashboard as script

FM_STEPS, STEPS = 100, (100, 200, 300)
CHANNELS, FREQUENCIES = range(4), ("0", "0.25", "0.5")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    style.plt.close("all")


@pytest.fixture
def history():
    """Six windows of 50 steps, the first two of flow matching only; every column has its own level."""
    steps = np.arange(50, 301, 50)
    table = pd.DataFrame({"step": steps, "loss": 0.999})
    for k, kind in enumerate(("raw_fm", "raw_mf")):
        for j, name in enumerate((kind, *(f"{kind}_t{t}" for t in dashboard.BINS))):
            table[name] = (1 + k + 2.0 * j) / steps
    table.loc[table["step"] <= FM_STEPS, [name for name in table if "raw_mf" in name]] = np.nan
    return table


def pairs(below):
    """Pairs of a window as the diagnostics record them: one of r = t by bin of t, one of r < t by bin of t and h."""
    equal = [("raw_fm", t, 0, 1.0 + t, 0.0) for t in range(4)]
    return equal + [("raw_mf", t, h, (1.0 + t) * (1 + h), 0.5) for t in range(4) for h in range(t + 1) if below]


def probe(step):
    """Rows of one evaluation of the network, each with its own value."""
    parts = ((q, t) for q in ("spatial", "temporal") for t in dashboard.BINS)
    rows_by_t = [(q, t, "", "", (k + 1) * 100 / step) for k, (q, t) in enumerate(parts)]
    rows_by_t += [("fixed_fm", t, "", "", (k + 1) * (1 - step / 1000)) for k, t in enumerate(dashboard.BINS)]
    std = [("latent_std", "", "", str(c), 0.9 + 0.1 * c + 1 / step) for c in CHANNELS]
    return [*rows_by_t, ("endpoint", "", "", "", 20 / step), *std,
            *(("spectrum", "", "", f, 1 - float(f) * 50 / step) for f in FREQUENCIES)]  # fmt: skip


def table(steps=STEPS, flow_matching_steps=FM_STEPS, alarms=()):
    rows = [(0, "fixed_fm", t, "", "", k + 1.0) for k, t in enumerate(dashboard.BINS)]
    rows += [
        (s, *row) for s in steps for row in [*diagnostics.summarise_window(pairs(s > flow_matching_steps)), *probe(s)]
    ]
    rows += [(step, "alarm", "", "", name, 1.0) for step, name in alarms]
    return pd.DataFrame(rows, columns=diagnostics.COLUMNS)


def draw(*tables):
    """Panels by letter, drawn once so that impossible ticks or sizes raise here."""
    fig = dashboard.draw(*tables)
    fig.canvas.draw()
    return dict(zip("abcdefghi", fig.axes, strict=True))


def drawn(ax):
    """Lines with data, without bounds and legend entries."""
    return [line for line in ax.lines if len(line.get_xdata()) and line.get_transform() == ax.transData]


def points(line):
    return line.get_xydata().tolist()


def words(ax):
    """Texts of a panel and its legend."""
    legend = ax.get_legend()
    return [text.get_text() for text in [*ax.texts, *(legend.get_texts() if legend else ())]]


def rows(probes, quantity, **where):
    selected = probes[(probes["quantity"] == quantity) & (probes[list(where)] == list(where.values())).all(axis=1)]
    return selected[["step", "value"]].values.tolist()


def test_losses_are_those_of_the_history(history):
    panels = draw(history, table())
    late = history[history["step"] > FM_STEPS]
    weighted, equal, below = panels["a"].lines[:3]
    assert points(weighted) == history[["step", "loss"]].values.tolist()
    assert points(equal) == history[["step", "raw_fm"]].values.tolist()
    assert points(below) == late[["step", "raw_mf"]].values.tolist()
    assert words(panels["a"])[-3:] == ["weighted", "raw, $r = t$", "raw, $r < t$"]
    for k, t in enumerate(dashboard.BINS):
        equal, below = drawn(panels["b"])[k], drawn(panels["b"])[4 + k]
        assert points(equal) == history[["step", f"raw_fm_t{t}"]].values.tolist()
        assert points(below) == late[["step", f"raw_mf_t{t}"]].values.tolist()
        assert equal.get_color() == below.get_color() == dashboard.COLOURS[k]


def test_lines_over_steps_are_those_of_the_diagnostics(history):
    probes = table()
    panels = draw(history, probes)
    for k, t in enumerate(dashboard.BINS):
        assert points(panels["c"].lines[k]) == rows(probes, "ratio", t=t) != []
        spatial, temporal = drawn(panels["e"])[k], drawn(panels["e"])[4 + k]
        assert points(spatial) == rows(probes, "spatial", t=t)
        assert points(temporal) == rows(probes, "temporal", t=t)
    assert points(panels["f"].lines[0]) == rows(probes, "endpoint")
    assert [points(line) for line in panels["g"].lines] == [rows(probes, "latent_std", part=str(c)) for c in CHANNELS]
    for line in panels["i"].lines[:4]:
        assert points(line) == [[0, 1], *([step, pytest.approx(1 - step / 1000)] for step in STEPS)]
    for line, step in zip(drawn(panels["h"]), STEPS, strict=True):
        spectrum = probes[(probes["quantity"] == "spectrum") & (probes["step"] == step)]
        assert points(line) == [[float(f), value] for f, value in zip(FREQUENCIES, spectrum["value"], strict=True)]


def test_the_map_divides_by_the_loss_of_the_same_t(history):
    panels = draw(history, table())
    values = panels["d"].collections[0].get_array()
    expected = [[1.0 + h if h <= t else np.nan for t in range(4)] for h in range(4)]  # rows are h, columns t
    np.testing.assert_array_equal(np.ma.filled(values, np.nan), expected)
    weights = {text.get_text(): text.get_fontweight() for text in panels["d"].texts if len(text.get_text()) == 1}
    assert weights == {"1": "normal", "2": "normal", "3": "bold", "4": "bold"}  # bold above the bound
    assert panels["d"].get_title(loc="left") == "ratio of (c) at step 300"


def test_the_map_is_of_the_last_step_with_pairs(history):
    probes = table()
    probes = probes[~((probes["step"] == 300) & probes["quantity"].isin(["raw_mf", "ratio"]))]
    assert draw(history, probes)["d"].get_title(loc="left") == "ratio of (c) at step 200"


def test_bounds_are_labelled_and_are_those_of_the_alarms(history):
    panels = draw(history, table())
    value = dashboard.RATIO_BOUND
    assert inspect.signature(diagnostics.ratio_high).parameters["bound"].default == value
    assert [value, value] in [list(line.get_ydata()) for line in panels["c"].lines]
    assert any(text.startswith(f"alarm above {value:g}") for text in words(panels["c"]))
    assert [1, 1] in [list(line.get_ydata()) for line in panels["c"].lines]
    assert panels["g"].patches[0].get_bbox().intervaly.tolist() == [0.9, 1.1]


def test_bins_and_columns_are_those_of_the_diagnostics():
    assert dashboard.BINS == diagnostics.BINS
    assert dashboard.COLUMNS == diagnostics.COLUMNS


def test_spectra_darken_with_the_step(history):
    grey = [np.mean(matplotlib.colors.to_rgb(line.get_color())) for line in drawn(draw(history, table())["h"])]
    assert grey == sorted(grey, reverse=True) and len(set(grey)) == len(STEPS)


def test_every_alarm_is_a_line_and_its_name_is_written_once(history):
    alarms = [(200, "ratio"), (300, "ratio"), (300, "explosion")]
    ax = draw(history, table(alarms=alarms))["a"]
    assert [line.get_xdata()[0] for line in ax.lines[3:]] == [200, 300]
    names = [(text.get_text(), text.get_position()[0]) for text in ax.texts if text.get_text() != "(a)"]
    assert names == [("ratio (2 steps)", 200), ("explosion", 300)]


def test_names_of_alarms_at_one_step_do_not_overlap(history):
    ax = draw(history, table(alarms=[(200, alarm.name) for alarm in diagnostics.ALARMS]))["a"]
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text() != "(a)"]
    assert len(boxes) == len(diagnostics.ALARMS)
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])


def test_no_alarm_is_written_only_with_diagnostics(history):
    assert "no alarm" in words(draw(history, table())["a"])
    assert "no alarm" not in words(draw(history, table(alarms=[(200, "ratio")]))["a"])
    without = words(draw(history, table()[:0])["a"])
    assert "no alarm" not in without and dashboard.NO_DIAGNOSTICS in without


def test_without_diagnostics_only_losses_are_drawn(history):
    panels = draw(history, table()[:0])
    assert len(drawn(panels["b"])) == 8
    assert all(dashboard.NO_DIAGNOSTICS in words(panels[name]) and not panels[name].lines for name in "cdefghi")


def test_a_run_without_pairs_of_r_below_t_is_labelled(history):
    history = history.assign(**{name: np.nan for name in history if "raw_mf" in name})
    panels = draw(history, table(flow_matching_steps=300))
    assert all(dashboard.NO_PAIRS in words(panels[name]) for name in "abcd")
    assert len(drawn(panels["b"])) == 4 and len(drawn(panels["e"])) == 8
    assert not panels["c"].lines and not panels["d"].collections


def test_pairs_without_a_loss_at_r_equal_to_t_are_not_compared(history):
    probes = table()
    panels = draw(history, probes[~probes["quantity"].isin(["raw_fm", "ratio"])])
    assert all("no pairs with $r = t$" in words(panels[name]) for name in "cd")


def test_a_single_step_is_drawn_as_a_point(history):
    panels = draw(history[-1:], table(steps=[300]))
    lines = [panels["a"].lines[1], *panels["c"].lines[:4], panels["f"].lines[0], *panels["g"].lines]
    assert all(len(points(line)) == 1 and line.get_marker() == "." for line in lines)
    assert words(panels["h"])[-1:] == ["step 300"]


def test_values_that_are_not_finite_leave_gaps(history):
    probes = table(alarms=[(300, "not-finite")])
    last = (probes["step"] == 300) & (probes["quantity"] != "alarm")
    probes.loc[last, "value"] = np.resize([np.nan, np.inf], last.sum())
    history.loc[5, [name for name in history if "raw" in name]] = np.nan
    panels = draw(history, probes)
    assert points(panels["f"].lines[0]) == [row for row in rows(probes, "endpoint") if not np.isnan(row[1])]
    assert all(np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all() for ax in panels.values())


def test_the_last_panel_is_the_validation_error_over_that_of_the_prior(history):
    errors = [(step, "validation", t, "", part, value)
              for step, network in ((100, 0.8), (200, 0.6)) for t, prior in (("0.3", 1.0), ("0.7", 2.0))
              for part, value in (("network", network * prior), ("prior", prior))]  # fmt: skip
    probes = pd.concat([table(), pd.DataFrame(errors, columns=diagnostics.COLUMNS)])
    lines = draw(history, probes)["i"].lines[:2]
    assert [points(line) for line in lines] == [[[100, 0.8], [200, 0.6]]] * 2


def test_a_table_and_its_csv_give_the_same_figure(history, tmp_path):
    probes = table()
    probes.to_csv(tmp_path / "diagnostics.csv", index=False)
    back = dashboard.read_diagnostics(tmp_path / "diagnostics.csv")
    for one, other in zip(draw(history, probes).values(), draw(history, back).values(), strict=True):
        assert [points(line) for line in one.lines] == [points(line) for line in other.lines]
        assert words(one) == words(other)


@pytest.mark.parametrize("probes", [table(), pd.DataFrame()], ids=["diagnostics", "blank file"])
def test_the_script_draws_from_csv_files(history, probes, tmp_path):
    history.to_csv(tmp_path / "history.csv", index=False)
    probes.to_csv(tmp_path / "diagnostics.csv", index=False)
    script.main([
        *("--history", str(tmp_path / "history.csv"), "--diagnostics", str(tmp_path / "diagnostics.csv")),
        *("--config", '{"run": "7"}', "--out", str(tmp_path / "dashboard")),
    ])  # fmt: skip
    assert json.loads((tmp_path / "dashboard.json").read_text()) == {"run": "7"}
    assert b'{"run": "7"}' in (tmp_path / "dashboard.png").read_bytes()
    assert (tmp_path / "dashboard.pdf").stat().st_size > 10_000


def test_the_dashboard_is_as_wide_as_the_page_and_imports_no_torch(history):
    assert dashboard.draw(history, table()).get_size_inches()[0] == style.PAGE
    code = "import sys, neuromf.figures.dashboard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
