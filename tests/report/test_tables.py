"""Digits, LaTeX and files of tables, and table 1."""

import json
import math
import re

import pandas as pd
import pytest

from neuromf.metrics.table import set_columns
from neuromf.report.tables import style
from neuromf.report.tables.comparison import CEILINGS, FLOORS, LITERATURE, OTHERS, OURS, PUBLISHED, build
from neuromf.report.tables.style import Column, escape, number
from workflow_scripts import table_1 as script

NAN = math.nan
FACTS = {"study": "test_1", "run": "meanflow", "values": {"p": "50 %"}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (23.512, "23.5"), (184.4, "184"), (0.75249, "0.752"), (0.00466, "0.00466"), (1455.7, "1,456"), (9.996, "10.0"),
        (0.09996, "0.100"), (-0.0671, "-0.0671"), (0.0, "0"), (99.96, "100"), (NAN, "--"), (math.inf, "--"),
    ],
)  # fmt: skip
def test_a_number_without_interval_has_three_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
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
def test_an_interval_sets_the_number_of_digits(value, low, high, text):
    assert number(value, low, high) == text


def parsed(text):
    """Rows of cells of a tabular; fails if braces, environments or numbers of columns do not match."""
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


def test_special_characters_are_escaped():
    text = r"a_b & 50 % of $x^2$ {y} #1 ~z \w <3 -0.5 x-1"
    assert escape(text) == (
        r"a\_b \& 50 \% of \$x\textasciicircum{}2\$ \{y\} \#1 \textasciitilde{}z \textbackslash{}w \textless{}3"
        " $-$0.5 x-1"
    )


@pytest.fixture
def small():
    table = pd.DataFrame({
        "group": ["ours & theirs", "ours & theirs", "real"],
        "name": ["a_1", "50 %", "scans"],
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


def test_latex_has_headers_groups_rows_and_marks(small):
    assert parsed(style.latex(*small, ["5 % of a_b"])) == [
        ["", "steps", "distance", "KID"],
        ["", "", r"pca\_32", "x 1000"],
        [r"\multicolumn{4}{@{}l}{\textit{ours \& theirs}}"],
        [r"a\_1", "1", "64 (60 to 80)", "1.23"],
        [r"50 \%\textsuperscript{b}", "1,000", "--", "0.0010"],  # published numbers keep their digits
        [r"\multicolumn{4}{@{}l}{\textit{real}}"],
        ["scans", "", "14.1", "--"],  # impossible values are blank, missing ones a dash
    ]
    assert r"\footnotesize 5 \% of a\_b\par}" in style.latex(*small, ["5 % of a_b"])


def test_files_have_provenance_and_missing_cells(small, tmp_path):
    for name in ("one", "two"):
        style.save(*small, ["a note"], tmp_path / "tables" / name, FACTS)
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


def test_a_failed_write_leaves_no_file(small, tmp_path, monkeypatch):
    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        style.save(*small, [], tmp_path / "one", FACTS)
    assert not list(tmp_path.iterdir())


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
    table = pd.DataFrame(rows, columns=["part", "nfe", "batch", "seconds_per_volume"])
    return table.assign(run="meanflow", n=[100, 100, 12, 40, 40], device="A100 & co", precision="float32")


def printed(table, columns, name, nfe=None):
    """Cells of one row by their column."""
    rows = table[(table["name"] == name) & (nfe is None or table["nfe"] == nfe)]
    assert len(rows) == 1
    return {column.key: style.cell(rows.iloc[0], column) for column in columns}


def test_table_1_has_runs_floors_ceilings_and_published_models_in_order(metrics, timing):
    table, columns, notes = build(metrics, timing, "meanflow", names={"other": "Rectified Flow"})
    assert table[["group", "name"]].values.tolist() == [
        *[[OURS, "MeanFlow"]] * 3,
        *[[OURS, "Rectified Flow"]] * 2,
        [OURS, "Gaussian prior alone, without the network"],
        [FLOORS, "test participants"],
        [FLOORS, "reconstructions of test scans"],
        [CEILINGS, "blurred"],
        [CEILINGS, "noisy"],
        [CEILINGS, "mean of the test scans, repeated"],
        [OTHERS, "anything"],
        *[[PUBLISHED, row["name"]] for row in LITERATURE],
    ]
    assert table["nfe"][:6].tolist() == [1, 10, 50, 1, 50, 0]
    parsed(style.latex(table, columns, notes))


def test_cells_of_table_1_are_metrics_and_seconds(metrics, timing):
    table, columns, notes = build(metrics, timing, "meanflow", column_metrics=["kid", "frechet"])
    headers = [(column.header, column.below) for column in columns]
    assert headers[3:6] == [("KID", "enc-32"), ("Fréchet distance", "enc-32"), ("Fréchet distance", "slices")]
    row = printed(table, columns, "MeanFlow", 1)
    assert row == {
        "name": "MeanFlow", "nfe": "1", "n": "40", "kid enc-32": "0.00210",
        "frechet enc-32": "23.5 (21.5 to 25.5)", "frechet slices": "9.0 (7.0 to 11.0)", "ms_ssim": "0.750",
        "network_s": "0.0200", "decoder_s": "0.300", "total_s": "0.320", "published": "",
    }  # fmt: skip
    row = printed(table, columns, "MeanFlow", 10)
    assert (row["network_s"], row["decoder_s"], row["total_s"], row["ms_ssim"]) == ("--", "0.300", "--", "--")
    assert printed(table, columns, "MeanFlow", 50)["total_s"] == "1.40"
    assert printed(table, columns, "test participants")["nfe"] == ""
    assert "Seconds per volume at batch size 1: medians of 12 to 100 calls on A100 & co, float32." in notes


def test_table_1_has_the_named_runs_only(metrics, timing):
    names = [sorted(set(build(metrics, timing, "meanflow", names=given)[0].query("group == @OURS")["name"]))
             for given in (None, {}, {"other": "Rectified Flow"})]  # fmt: skip
    prior = "Gaussian prior alone, without the network"
    assert names == [sorted(["MeanFlow", prior, *others]) for others in (["other"], [], ["Rectified Flow"])]


def test_a_run_without_timing_has_no_seconds(metrics, timing):
    table, columns, _ = build(metrics, timing, "meanflow")
    assert printed(table, columns, "other", 50)["total_s"] == "--"


def test_published_models_are_marked_with_their_source_and_have_no_own_metrics(metrics, timing):
    table, columns, notes = build(metrics, timing, "meanflow")
    quoted = table[table["quoted"]]
    assert len(quoted) == len(LITERATURE) == (table["mark"] != "").sum() and (quoted["mark"] != "").all()
    assert quoted["frechet enc-32"].isna().all() and quoted["n"].isna().all()
    for _, row in quoted.iterrows():
        assert f"{row['mark']}: {row['source']}." in notes
        assert re.search(r"arXiv \d{4}\.\d{5}|github\.com/\w+|README of \w+", row["source"])
    assert printed(table, columns, "MOTFM", 10)["published"] == "9.27"
    assert printed(table, columns, "MOTFM", 10)["frechet enc-32"] == ""


def test_unmeasured_metrics_and_runs_are_refused(metrics, timing):
    with pytest.raises(
        ValueError, match="no mmd2 of run meanflow; it has frechet enc-32, frechet slices, kid enc-32, "
    ):
        build(metrics, timing, "meanflow", column_metrics=["mmd2"])
    with pytest.raises(ValueError, match="no frechet of run absent; it has no metrics; name one of those"):
        build(metrics, timing, "absent")


def test_duplicate_metrics_are_refused(metrics, timing):
    twice = pd.concat([metrics, metrics[metrics["nfe"] == 10]])
    with pytest.raises(ValueError, match="frechet enc-32 has 2 rows, expected one; evaluate again"):
        build(twice, timing, "meanflow")


def test_the_script_writes_table_1_from_files(metrics, timing, tmp_path):
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    timing.to_csv(tmp_path / "generation.csv", index=False)
    config = {**FACTS, "column_metrics": ["frechet"], "names": {"other": "Rectified Flow"}}
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
