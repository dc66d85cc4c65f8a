"""Tables: the right digits, LaTeX that parses, missing shown as missing, quoted as quoted, and what made them."""

import json
import math
import re

import pandas as pd
import pytest

from neuromf.metrics.table import set_columns
from neuromf.report.tables import style
from neuromf.report.tables.comparison import CEILINGS, FLOORS, LITERATURE, OURS, QUOTED, REST, table_1
from neuromf.report.tables.style import Column, escape, number
from workflow_scripts import table_1 as script

NAN = math.nan
FACTS = {"study": "test_1", "run": "meanflow", "values": {"p": "50 %"}}


# --- digits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (23.512, "23.5"), (184.4, "184"), (0.75249, "0.752"), (0.00466, "0.00466"), (1455.7, "1,456"), (9.996, "10.0"),
        (0.09996, "0.100"), (-0.0671, "-0.0671"), (0.0, "0"), (99.96, "100"), (NAN, "--"), (math.inf, "--"),
    ],
)  # fmt: skip
def test_a_number_alone_has_three_digits(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (64.3532, 60.3402, 80.286, "64 (60 to 80)"),
        (23.512, 22.1, 24.9, "23.5 (22.1 to 24.9)"),
        (0.75249, 0.7403, 0.7688, "0.752 (0.740 to 0.769)"),
        (1455.7, 1194.4, 1685.3, "1,456 (1,194 to 1,685)"),
        (0.00012, -0.00003, 0.00027, "0.00012 (-0.00003 to 0.00027)"),
        (184.17, 175.8, 191.8, "184.2 (175.8 to 191.8)"),
        (5.0, 5.0, 5.0, "5.00"),
        (5.0, NAN, 6.0, "5.00"),
    ],
)
def test_an_interval_says_how_many_digits_are_known(value, low, high, shown):
    assert number(value, low, high) == shown


# --- LaTeX -------------------------------------------------------------------------------------------


def parsed(text):
    """Rows of cells of a tabular; fails where braces, environments or the number of columns do not agree."""
    text = re.sub(r"(?<!\\)%.*", "", text)
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0 and len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    ((layout, body),) = re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}\n(.*?)\\end\{tabular\}", text, re.S)
    rules = [r"\toprule", r"\midrule", r"\bottomrule"]
    lines = [line for line in body.strip().split("\n") if line not in rules]
    rows = []
    for line in lines:
        assert line.endswith(r" \\") and not re.search(r"(?<!\\)[#_^~]", line)
        cells = re.split(r"(?<!\\)&", line[:-3])
        spans = [re.match(r"\\multicolumn\{(\d+)\}", cell.strip()) for cell in cells]
        assert sum(int(span[1]) if span else 1 for span in spans) == len(layout), line
        rows.append([cell.strip() for cell in cells])
    return rows


def test_what_latex_reads_as_commands_is_escaped():
    text = r"a_b & 50 % of $x^2$ {y} #1 ~z \w <3 -0.5 x-1"
    assert escape(text) == (
        r"a\_b \& 50 \% of \$x\textasciicircum{}2\$ \{y\} \#1 \textasciitilde{}z \textbackslash{}w \textless{}3"
        " $-$0.5 x-1"
    )


@pytest.fixture
def small():
    table = pd.DataFrame({
        "group": ["ours & theirs", "ours & theirs", "real"],
        "name": ["a_1", "50 %", "people"],
        "mark": ["", "b", ""],
        "steps": [1, 1000, NAN],
        "d": [64.35, NAN, 14.08],
        "d_low": [60.3, NAN, NAN],
        "d_high": [80.3, NAN, NAN],
        "k": [0.00123, "0.0010", NAN],
    })  # fmt: skip
    columns = [Column("name", "", kind="text"), Column("steps", "steps", kind="whole", groups={"ours & theirs"}),
               Column("d", "distance", "pca_32"), Column("k", "KID", "x 1000", factor=1000)]  # fmt: skip
    return table, columns


def test_a_table_in_latex_has_its_heads_groups_rows_and_marks(small):
    assert parsed(style.latex(*small, ["5 % of a_b"])) == [
        ["", "steps", "distance", "KID"],
        ["", "", r"pca\_32", "x 1000"],
        [r"\multicolumn{4}{@{}l}{\textit{ours \& theirs}}"],
        [r"a\_1", "1", "64 (60 to 80)", "1.23"],
        [r"50 \%\textsuperscript{b}", "1,000", "--", "0.0010"],  # quoted numbers keep their digits
        [r"\multicolumn{4}{@{}l}{\textit{real}}"],
        ["people", "", "14.1", "--"],  # what cannot be is blank, what was not measured is a dash
    ]
    assert r"\footnotesize 5 \% of a\_b\par}" in style.latex(*small, ["5 % of a_b"])


def test_a_table_is_written_with_what_made_it_and_what_it_lacks(small, tmp_path):
    for name in ("one", "two"):
        style.save(*small, tmp_path / "tables" / name, FACTS, ["a note"])
    files = sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert files == [f"{name}.{suffix}" for name in ("one", "two") for suffix in ("csv", "json", "tex")]
    for suffix in ("csv", "json", "tex"):
        assert len({(tmp_path / "tables" / f"{name}.{suffix}").read_bytes() for name in ("one", "two")}) == 1
    first = (tmp_path / "tables" / "one.tex").read_text().split("\n")[0]
    assert first.startswith("% ") and json.loads(first[2:]) == FACTS
    side = json.loads((tmp_path / "tables" / "one.json").read_text())
    listed = [style.Column(**{**c, "groups": c["groups"] and set(c["groups"])}) for c in side.pop("columns")]
    assert listed == small[1]
    assert side == {**FACTS, "rows": 3, "missing": {"d": 1, "k": 1}, "notes": ["a note"]}
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "tables" / "one.csv")[["d", "d_low"]], small[0][["d", "d_low"]]
    )


def test_a_table_that_cannot_be_written_leaves_nothing(small, tmp_path, monkeypatch):
    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        style.save(*small, tmp_path / "one", FACTS)
    assert not list(tmp_path.iterdir())


# --- table 1 -----------------------------------------------------------------------------------------


def measured(run, which, value, *, metric="frechet", features="enc-32", n=40):
    low, high = (value - 2, value + 2) if metric == "frechet" else (NAN, NAN)
    return {
        "run": run,
        **set_columns(which),
        "metric": metric,
        "features": features,
        "n": n,
        "value": value,
        "low": low,
        "high": high,
    }


@pytest.fixture
def metrics():
    rows = [measured("other", 1, 183.0), measured("other", 50, 25.9)]
    sets = {"test": 20.9, "reconstruction": 20.7, "mean": 184.0, 1: 23.5, 50: 32.3, 10: 23.6, "online": 22.0,
            "early": 90.0, "prior": 25.2, "noisy": 70.0, "blurred": 60.0,
            "anything": 55.0, "ema-500": 23.0}  # fmt: skip
    rows += [measured("meanflow", name, value) for name, value in sets.items()]
    rows += [measured("meanflow", name, 0.75, metric="pair_ms_ssim", features=NAN, n=16) for name in (1, "test")]
    rows += [measured("meanflow", 1, 0.0021, metric="kid"), measured("meanflow", 1, 9.0, features="slices")]
    return pd.DataFrame(rows)


@pytest.fixture
def timing():
    rows = [("network", 1, 1, 0.02), ("network", 1, 8, 0.005), ("network", 50, 1, 1.1), ("decoder", NAN, 1, 0.3),
            ("decoder", NAN, 4, 0.2)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["part", "evaluations", "batch", "seconds_per_volume"])
    return table.assign(run="meanflow", n=[100, 100, 12, 40, 40], device="A100 & co", precision="float32")


def printed(table, columns, name, evaluations=None):
    """Cells of one row by their column."""
    rows = table[(table["name"] == name) & (evaluations is None or table["evaluations"] == evaluations)]
    assert len(rows) == 1
    return {column.key: style.cell(rows.iloc[0], column) for column in columns}


def test_table_1_has_runs_floors_ceilings_and_quoted_rows_in_order(metrics, timing):
    table, columns, notes = table_1(metrics, timing, "meanflow", names={"other": "Rectified Flow"})
    assert table[["group", "name"]].values.tolist() == [
        *[[OURS, "MeanFlow"]] * 3,
        *[[OURS, "Rectified Flow"]] * 2,
        [OURS, "Gaussian prior alone, without the network"],
        [FLOORS, "held-out people"],
        [FLOORS, "the same after the autoencoder"],
        [CEILINGS, "blurred"],
        [CEILINGS, "noisy"],
        [CEILINGS, "their mean, repeated"],
        [REST, "anything"],
        *[[QUOTED, row["name"]] for row in LITERATURE],
    ]
    assert table["evaluations"][:6].tolist() == [1, 10, 50, 1, 50, 0]
    parsed(style.latex(table, columns, notes))


def test_cells_of_table_1_are_those_of_the_metrics_and_the_timing(metrics, timing):
    table, columns, notes = table_1(metrics, timing, "meanflow", shown=["kid", "frechet"])
    heads = [(column.header, column.below) for column in columns]
    assert heads[3:6] == [("KID", "enc-32"), ("Fréchet distance", "enc-32"), ("Fréchet distance", "slices")]
    row = printed(table, columns, "MeanFlow", 1)
    assert row == {
        "name": "MeanFlow", "evaluations": "1", "n": "40", "kid enc-32": "0.00210",
        "frechet enc-32": "23.5 (21.5 to 25.5)", "frechet slices": "9.0 (7.0 to 11.0)", "ms_ssim": "0.750",
        "network_s": "0.0200", "decoder_s": "0.300", "total_s": "0.320", "published": "",
    }  # fmt: skip
    row = printed(table, columns, "MeanFlow", 10)
    assert (row["network_s"], row["decoder_s"], row["total_s"], row["ms_ssim"]) == ("--", "0.300", "--", "--")
    assert printed(table, columns, "MeanFlow", 50)["total_s"] == "1.40"
    assert printed(table, columns, "held-out people")["evaluations"] == ""
    assert "Seconds per volume, one volume at a time: medians of 12 to 100 calls on A100 & co, float32." in notes


def test_table_1_shows_the_runs_that_are_named_and_no_others(metrics, timing):
    names = [sorted(set(table_1(metrics, timing, "meanflow", names=given)[0].query("group == @OURS")["name"]))
             for given in (None, {}, {"other": "Rectified Flow"})]  # fmt: skip
    base = "Gaussian prior alone, without the network"
    assert names == [["MeanFlow", base, "other"], ["MeanFlow", base], ["MeanFlow", "Rectified Flow", base]]


def test_a_run_has_seconds_only_where_its_network_was_timed(metrics, timing):
    for timed, shown in ((None, "--"), (["meanflow", "other"], "1.40")):
        table, columns, _ = table_1(metrics, timing, "meanflow", timed=timed)
        assert printed(table, columns, "other", 50)["total_s"] == shown


def test_quoted_rows_are_marked_name_their_source_and_are_in_no_column_of_ours(metrics, timing):
    table, columns, notes = table_1(metrics, timing, "meanflow")
    quoted = table[table["quoted"]]
    assert (
        len(quoted) == len(LITERATURE) and (quoted["mark"] != "").all() and (table["mark"] != "").sum() == len(quoted)
    )
    assert quoted["frechet enc-32"].isna().all() and quoted["n"].isna().all()
    for _, row in quoted.iterrows():
        assert f"{row['mark']}: {row['source']}." in notes
        assert re.search(r"arXiv \d{4}\.\d{5}|github\.com/\w+|README of \w+", row["source"])
    assert printed(table, columns, "MOTFM", 10)["published"] == "9.27"
    assert printed(table, columns, "MOTFM", 10)["frechet enc-32"] == ""


def test_table_1_shows_the_feature_sets_that_are_asked_for(metrics, timing):
    _, columns, _ = table_1(metrics, timing, "meanflow", features=["slices"])
    assert [column.below for column in columns if column.header == "Fréchet distance"] == ["slices"]
    with pytest.raises(
        ValueError, match="no kid with slices of run meanflow in the metrics, which hold frechet enc-32, "
    ):
        table_1(metrics, timing, "meanflow", shown=["kid"], features=["slices"])
    with pytest.raises(ValueError, match="no frechet of run absent in the metrics, which hold nothing of it; show one"):
        table_1(metrics, timing, "absent")


def test_a_value_that_stands_twice_is_refused(metrics, timing):
    twice = pd.concat([metrics, metrics[metrics["nfe"] == 10]])
    with pytest.raises(ValueError, match="2 rows of frechet enc-32 for 10 of one run, wanted one: join metrics again"):
        table_1(twice, timing, "meanflow")


def test_the_script_writes_table_1_from_files(metrics, timing, tmp_path):
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    timing.to_csv(tmp_path / "generation.csv", index=False)
    config = {**FACTS, "shown": ["frechet"], "names": {"other": "Rectified Flow"}}
    line = [
        "--metrics",
        tmp_path / "metrics.csv",
        "--timing",
        tmp_path / "generation.csv",
        "--out",
        tmp_path / "table_1",
    ]
    script.main([*map(str, line), "--config", json.dumps(config)])
    rows = parsed((tmp_path / "table_1.tex").read_text())
    assert ["MeanFlow", "1", "40", "23.5 (21.5 to 25.5)", "9.0 (7.0 to 11.0)", "0.750"] in [row[:6] for row in rows]
    table = pd.read_csv(tmp_path / "table_1.csv")
    assert table["quoted"].sum() == len(LITERATURE) and table["frechet enc-32"].notna().sum() == 12
    assert json.loads((tmp_path / "table_1.json").read_text())["study"] == "test_1"
