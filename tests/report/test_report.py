"""The page of a study: complete, true to the results, honest about what is missing, and closed to the network."""

import gzip
import io
import json
import re
import shutil
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_doctree
from PIL import Image
from report.report_study import RUN, SECRET, SETTINGS, made, put, put_look, put_study

from neuromf.metrics.table import read_rows
from neuromf.report.captions import render
from neuromf.report.page import build, pictures, preview
from neuromf.report.page.costs import costs, said
from neuromf.report.results import Results
from neuromf.workflow.digests import files_digest
from workflow_scripts import look as script

VOID = {"meta", "link", "br", "img", "input", "hr"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return put_study(tmp_path_factory.mktemp("study") / "results")


class Reader(HTMLParser):
    """Elements by id, text, data elements and addresses of a page; tags that do not close are an error."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.text, self.data, self.addresses, self.rows = [], {}, [], [], [], []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            assert attrs["id"] not in self.ids, f"two elements {attrs['id']}"
            self.ids[attrs["id"]] = attrs
        self.addresses += [attrs[name] for name in ("src", "href", "action", "data") if name in attrs]
        if tag == "data":
            self.data.append(attrs)
        if tag == "td":
            self.rows.append(attrs.get("data-sort"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> ends <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)


@pytest.fixture(scope="module")
def html(root):
    return made(root)


@pytest.fixture(scope="module")
def read(html):
    return Reader(html)


# --- what stands in the page -------------------------------------------------------------------------


def test_every_figure_table_gate_and_run_has_its_place(read):
    wanted = {*SETTINGS["figures"], *SETTINGS["tables"], *(f"gate-{phase}" for phase in range(9))}
    assert wanted <= read.ids.keys()
    words = " ".join(read.text)
    for said_of in ("P4-T6", "EMA over online", "train longer", "blocked", "A note.", "0123456789abcdef", "blank"):
        assert said_of in words


def test_what_is_missing_is_shown_as_missing_with_the_reason(read, tmp_path):
    words = " ".join(" ".join(read.text).split())
    assert "Figure 2 is missing: not made yet." in words
    assert "Figure 5 is missing: the ablation lp is not active." in words
    assert "Table 4 is missing: this study has no lesions." in words
    assert re.search(r"rectified-rectified-s0.{0,60}missing", words)
    empty = " ".join(" ".join(Reader(made(tmp_path / "nothing")).text).split())
    for sentence in (
        "The cohort is not made yet.",
        "The run meanflow is missing",
        "Nothing was measured on run meanflow",
        "Volumes to look at are missing",
        "The table of all metrics is missing",
        "Benchmarks are missing",
    ):
        assert sentence in empty


def test_numbers_are_those_of_the_results(root, read):
    table = read_rows(root / "metrics/metrics.csv")
    found = {each["data-from"]: float(each["value"]) for each in read.data}
    for row in table.to_dict("records"):
        which = row["nfe"] if row["set"] == "samples" else row["set"]
        assert found[f"metrics {row['metric']} {which} value"] == row["value"]
    assert found["metrics frechet 1 low"] == 700.5 and found["metrics frechet 1 n"] == 40
    assert found["vae/validation.json ssim"] == 0.96312
    assert found["cohort/qc.tsv train"] == 7 and found["cohort/qc.tsv aside"] == 1
    assert found[f"runs/{RUN}/card.json parameters / 1e6"] == 4.5
    for value in pd.read_csv(root / "tables/table_1.csv")["d"].dropna():
        assert str(value) in read.rows


def test_a_table_of_the_paper_is_printed_as_its_latex_is(root, read):
    words = " ".join(read.text)
    assert "757 (700 to 800)" in words and "12.3" in words
    assert "757 (700 to 800)" in (root / "tables/table_1.tex").read_text()


def test_a_table_whose_side_file_names_no_columns_is_shown_as_its_csv_stands(root, tmp_path):
    shutil.copytree(root, tmp_path / "results")
    side = json.loads((root / "tables/table_1.json").read_text())
    put(tmp_path / "results/tables/table_1.json", {key: side[key] for key in side if key != "columns"})
    assert "d low" in made(tmp_path / "results")


def test_the_same_results_give_the_same_page(root, html):
    assert made(root) == html


# --- what does not ----------------------------------------------------------------------------------


def test_nothing_is_fetched_and_nothing_could_be(html, read):
    assert read.addresses
    assert all(each.startswith(("#", "data:image/webp;base64,")) for each in read.addresses)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    assert policy.startswith("default-src 'none'") and "http" not in policy and "*" not in policy


def test_names_of_scans_stay_out(html):
    assert SECRET not in html and SECRET[:-1] not in html


def test_text_of_the_study_cannot_become_markup(html, read):
    assert "<b>bold</b>" not in html and "<script>alert" not in html
    assert "small & <b>bold</b>" in " ".join(read.text)
    assert build.inline("a</script>b<!--c") == "a<\\/script>b<\\!--c"


def test_a_page_that_cannot_be_sent_is_refused(root, monkeypatch):
    monkeypatch.setattr(build, "LIMIT", 1e4)
    with pytest.raises(ValueError, match=r"the page has 0\.\d MB, at most 0.01 are allowed"):
        made(root)


def test_volumes_are_left_out_by_the_case_where_there_is_no_room(tmp_path, monkeypatch):
    put_look(tmp_path)
    about = json.loads((tmp_path / "look.json").read_text())
    for line in list(about["volumes"]):
        about["volumes"].append({**line, "case": 1})
    put(tmp_path / "look.json", about)
    assert build.looked(tmp_path)["choices"] == {"evaluations": [1, 50], "cases": [0, 1], "kinds": ["T1"]}
    size = sum(path.stat().st_size for path in tmp_path.glob("*.nii.gz"))
    monkeypatch.setattr(build, "VOLUMES_LIMIT", 1.6 * size)
    assert build.looked(tmp_path)["choices"]["cases"] == [0]


# --- captions ----------------------------------------------------------------------------------------


def test_captions_state_n_seeds_units_and_device(root, tmp_path):
    names = render.write(Results(root, RUN), tmp_path)
    assert names == [f"dashboard-{RUN}", "fig_1", "table_1"]
    text = (tmp_path / "fig_1.rst").read_text()
    assert "n = 1 person and 1 sample" in text and "2.5 mm" in text and "seed 5" in text
    assert "trained with seed 3 on cpu, 2 threads" in text and "7 people in training, 2 held out" in text
    assert "544 training latents" in (tmp_path / f"dashboard-{RUN}.rst").read_text()


def test_every_caption_can_be_written_and_says_what_was_not_recorded(tmp_path):
    for path in render.TEMPLATES.glob("[a-z]*.rst.j2"):
        name = path.name.split(".")[0]
        kind = "tables" if name.startswith("table") else "figures"
        put(tmp_path / f"{kind}/{name}.json", {"study": "empty"})
        tree = publish_doctree(render.caption(name, Results(tmp_path, RUN)))
        assert not list(tree.findall(lambda node: node.tagname == "system_message")), name
        assert "not recorded" in tree.astext() or "unknown" in tree.astext() or name == "contact", name
    put(tmp_path / "figures/new_one.json", {"study": "em*pty_"})
    assert publish_doctree(render.caption("new_one", Results(tmp_path, RUN))).astext().startswith("New one. Study em*p")
    with pytest.raises(FileNotFoundError, match="no side file fig_99.json in figures or tables"):
        render.caption("fig_99", Results(tmp_path, RUN))


def test_partial_results_come_before_complete_ones(tmp_path):
    put(tmp_path / "partial/figures/fig_4.json", {"study": "partial"})
    put(tmp_path / "figures/fig_4.json", {"study": "whole"})
    assert Results(tmp_path, RUN).facts("figures/fig_4.json")["study"] == "whole"
    assert Results(tmp_path, RUN, partial=True).facts("figures/fig_4.json")["study"] == "partial"


# --- pieces ------------------------------------------------------------------------------------------


def test_costs_are_summed_over_the_jobs_of_a_rule(root):
    table = costs(root / "benchmarks").set_index("rule")
    assert table.index.tolist() == ["train", "qc"]
    assert table.loc["train"].tolist() == [2, 400.0, 389.5, 390.5]
    assert costs(root / "nowhere").empty
    assert [said(seconds) for seconds in (8.44, 45, 600, 7200)] == ["8.4 s", "45 s", "10 min", "2.0 h"]


def test_a_packed_volume_is_small_exact_and_centred():
    volume = np.linspace(0, 1, 10 * 12 * 14).reshape(10, 12, 14)
    crop = (slice(2, 9), slice(0, 12), slice(4, 10))
    content = preview.packed(volume, crop, 2.0)
    assert content == preview.packed(volume, crop, 2.0)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    assert image.get_data_dtype() == np.uint8 and nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(image.dataobj, np.rint(255 * volume[crop]))
    np.testing.assert_allclose(image.affine @ [3, 5.5, 2.5, 1], [0, 0, 0, 1])


def test_a_lesion_is_looked_at_where_it_is():
    crop, mask = (slice(1, 9), slice(0, 12), slice(4, 14)), np.zeros((10, 12, 14))
    assert preview.middle(mask, crop) is None
    mask[3, 5, 6:9] = 1
    at = preview.middle(mask, crop)
    assert at == [2.5 / 8, round(5.5 / 12, 4), 3.5 / 10]
    shown = preview.planes(mask, crop, 2.5, at)  # the lesion is in all three planes, and not in the middle ones
    assert [int((shown[:, part] > 0).sum()) for part in (slice(0, 8), slice(10, 18), slice(20, 32))] == [1, 3, 3]
    assert not preview.planes(mask, crop, 2.5)[:, 10:18].any()
    with Image.open(io.BytesIO(pictures.veil(shown))) as veil:
        np.testing.assert_array_equal(np.asarray(veil)[..., 3], shown // 2)


def test_pairs_that_are_shown_were_not_trained_on_and_leave_their_names_behind(tmp_path):
    rows, mask = [], np.zeros((8, 8, 8), np.float32)
    mask[2:4, 5, 6] = 1
    for k, split in enumerate(("train", "test", "test")):
        files = {name: str(tmp_path / f"{SECRET}-{k}-{name}.nii.gz") for name in ("image", "mask")}
        nib.save(nib.Nifti1Image(np.full((8, 8, 8), 0.2 + 0.2 * k, np.float32), np.eye(4)), files["image"])
        nib.save(nib.Nifti1Image(mask, np.eye(4)), files["mask"])
        rows.append({"scan": f"{SECRET}-{k}", "split": split, **files})
    put(tmp_path / "pairs.tsv", pd.DataFrame(rows).to_csv(index=False, sep="\t"))
    put(tmp_path / "samples.tsv", pd.DataFrame(rows)[["image", "mask"]].to_csv(index=False, sep="\t"))
    items = list(script.pairs(tmp_path / "pairs.tsv", tmp_path / "samples.tsv", n=1))
    assert [about["set"] for about, _ in items] == ["real flair", "real mask", "generated flair", "generated mask"]
    assert [round(float(volume.max()), 1) for _, volume in items] == [0.4, 1.0, 0.2, 1.0]
    lines = list(script.write(items, tmp_path, 2.0))
    assert all(line["at"] == lines[0]["at"] for line in lines) and SECRET not in json.dumps(lines)
    assert (tmp_path / "generated-mask-0.nii.gz").is_file() and (tmp_path / "real-flair-0.webp").is_file()


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinity"):
        preview.as_bytes(np.full((2, 2, 2), np.nan))
    with pytest.raises(ValueError, match=r"got shape \(2, 2\), float64"):
        pictures.grey(np.zeros((2, 2)))
    put(tmp_path / "broken.png", "no picture")
    with pytest.raises(ValueError, match="broken.png is no picture that can be read"):
        pictures.picture(tmp_path / "broken.png")


def test_pictures_are_made_no_wider_than_needed(tmp_path):
    Image.new("RGBA", (100, 50), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    shown = pictures.picture(tmp_path / "clear.png", width=50)
    assert (shown.width, shown.height) == (50, 25) and shown.src.startswith("data:image/webp;base64,")
    tiles = [np.full((2, 3), k, np.uint8) for k in (1, 2, 3)]
    np.testing.assert_array_equal(preview.montage(tiles, 2)[:, ::3], [[1, 2], [1, 2], [3, 0], [3, 0]])


def test_a_digest_of_files_sees_names_and_contents(tmp_path):
    assert files_digest("neuromf/report/page/templates") == files_digest("neuromf/report/page/templates")
    assert files_digest("neuromf/report/page/templates") != files_digest("neuromf/report/captions")
    with pytest.raises(ValueError, match="no folder neuromf/nowhere"):
        files_digest("neuromf/nowhere")
