"""The report page: complete, equal to the results, explicit about missing parts, and without network access."""

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
from report.report_study import RUN, SECRET, SETTINGS, put, put_preview, put_study
from report.report_study import render as render_study

from neuromf.metrics.table import read_rows
from neuromf.report.captions import render
from neuromf.report.page import build, pictures, preview, volumes
from neuromf.report.page.costs import costs
from neuromf.report.results import Results
from neuromf.report.templating import duration
from neuromf.workflow.digests import files_digest
from workflow_scripts import captions as captions_script
from workflow_scripts import report as report_script

VOID = {"meta", "link", "br", "img", "input", "hr"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return put_study(tmp_path_factory.mktemp("study") / "results")


class Reader(HTMLParser):
    """Collects ids, text, data elements and addresses of a page; unclosed tags are an error."""

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
    return render_study(root)


@pytest.fixture(scope="module")
def read(html):
    return Reader(html)


def test_every_figure_table_gate_and_run_appears(read):
    expected = {*SETTINGS["figures"], *SETTINGS["tables"], *(f"gate-{phase}" for phase in range(9))}
    assert expected <= read.ids.keys()
    words = " ".join(read.text)
    for text in ("P4-T6", "EMA over online", "train longer", "blocked", "A note.", "0123456789abcdef", "blank"):
        assert text in words


def test_missing_parts_are_named_with_the_reason(read, tmp_path):
    words = " ".join(" ".join(read.text).split())
    assert "Figure 2 is missing: not generated yet." in words
    assert "Figure 5 is missing: the ablation lp is not active." in words
    assert "Table 4 is missing: this study has no lesions." in words
    assert re.search(r"rectified-rectified-s0.{0,60}missing", words)
    empty = " ".join(" ".join(Reader(render_study(tmp_path / "nothing")).text).split())
    for sentence in (
        "The cohort has not been prepared yet.",
        "The run meanflow is missing",
        "The run meanflow has not been evaluated yet.",
        "Volumes are missing",
        "The table of all metrics is missing",
        "Benchmarks are missing",
    ):
        assert sentence in empty


def test_numbers_equal_the_results(root, read):
    table = read_rows(root / "metrics/metrics.csv")
    found = {each["data-from"]: float(each["value"]) for each in read.data}
    for row in table.to_dict("records"):
        which = row["nfe"] if row["set"] == "samples" else row["set"]
        assert found[f"metrics {row['metric']} {which} value"] == row["value"]
    assert found["metrics frechet 1 low"] == 700.5 and found["metrics frechet 1 n"] == 40
    assert found["vae/validation.json ssim"] == 0.96312
    assert found["cohort/qc.tsv train"] == 7 and found["cohort/qc.tsv excluded"] == 1
    assert found[f"runs/{RUN}/card.json parameters / 1e6"] == 4.5
    for value in pd.read_csv(root / "tables/table_1.csv")["d"].dropna():
        assert str(value) in read.rows


def test_a_table_of_the_paper_is_printed_like_its_latex(root, read):
    words = " ".join(read.text)
    assert "757 (700 to 800)" in words and "12.3" in words
    assert "757 (700 to 800)" in (root / "tables/table_1.tex").read_text()


def test_a_table_without_columns_in_its_provenance_file_is_printed_like_its_csv(root, tmp_path):
    shutil.copytree(root, tmp_path / "results")
    record = json.loads((root / "tables/table_1.json").read_text())
    put(tmp_path / "results/tables/table_1.json", {key: record[key] for key in record if key != "columns"})
    assert "d low" in render_study(tmp_path / "results")


def test_the_same_results_give_the_same_page(root, html):
    assert render_study(root) == html


def test_the_page_cannot_load_anything_from_the_network(html, read):
    assert read.addresses
    assert all(each.startswith(("#", "data:image/webp;base64,")) for each in read.addresses)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    assert policy.startswith("default-src 'none'") and "http" not in policy and "*" not in policy


def test_the_page_contains_no_names_of_scans(html):
    assert SECRET not in html and SECRET[:-1] not in html


def test_text_of_the_study_is_escaped(html, read):
    assert "<b>bold</b>" not in html and "<script>alert" not in html
    assert "small & <b>bold</b>" in " ".join(read.text)
    assert build.inline("a</script>b<!--c") == "a<\\/script>b<\\!--c"


def test_a_page_above_the_size_limit_is_refused(root, monkeypatch):
    monkeypatch.setattr(build, "LIMIT", 1e4)
    with pytest.raises(ValueError, match=r"the page has 0\.\d MB, the limit is 0.01 MB"):
        render_study(root)


def test_cases_above_the_size_limit_are_left_out(tmp_path, monkeypatch):
    put_preview(tmp_path)
    about = json.loads((tmp_path / "look.json").read_text())
    for line in list(about["volumes"]):
        about["volumes"].append({**line, "case": 1, "name": f"second-{line['name']}"})
        for suffix in (".nii.gz", ".webp"):
            shutil.copy(tmp_path / f"{line['name']}{suffix}", tmp_path / f"second-{line['name']}{suffix}")
    put(tmp_path / "look.json", about)
    assert build.previews(tmp_path)["choices"] == {"nfe": [1, 50], "cases": [0, 1], "images": ["T1"]}
    size = sum(path.stat().st_size for path in tmp_path.glob("*.nii.gz"))
    monkeypatch.setattr(build, "VOLUMES_LIMIT", 0.8 * size)
    assert build.previews(tmp_path)["choices"]["cases"] == [0]


def test_captions_state_n_seeds_units_and_device(root, tmp_path):
    names = render.write(Results(root, RUN), tmp_path)
    assert names == [f"dashboard-{RUN}", "fig_1", "table_1"]
    text = (tmp_path / "fig_1.rst").read_text()
    assert "n = 1 test scan and 1 sample" in text and "2.5 mm" in text and "seed 5" in text
    assert "trained with seed 3 on cpu, 2 threads" in text and "7 training and 2 test scans" in text
    assert "544 training latents" in (tmp_path / f"dashboard-{RUN}.rst").read_text()


def test_every_caption_names_missing_values(tmp_path):
    for path in render.TEMPLATES.glob("[a-z]*.rst.j2"):
        name = path.name.split(".")[0]
        kind = "tables" if name.startswith("table") else "figures"
        put(tmp_path / f"{kind}/{name}.json", {"study": "empty"})
        tree = publish_doctree(render.caption(name, Results(tmp_path, RUN)))
        assert not list(tree.findall(lambda node: node.tagname == "system_message")), name
        assert "not recorded" in tree.astext() or "unknown" in tree.astext() or name == "contact", name
    put(tmp_path / "figures/new_one.json", {"study": "em*pty_"})
    assert publish_doctree(render.caption("new_one", Results(tmp_path, RUN))).astext().startswith("New one. Study em*p")
    with pytest.raises(FileNotFoundError, match="no provenance file fig_99.json in figures or tables"):
        render.caption("fig_99", Results(tmp_path, RUN))


def test_only_declared_files_are_read_and_partial_ones_replace_complete_ones(tmp_path):
    name = "figures/fig_4.json"
    put(tmp_path / "partial" / name, {"study": "partial"})
    put(tmp_path / name, {"study": "complete"})
    assert Results(tmp_path, RUN).json(name)["study"] == "complete"
    assert Results(tmp_path, RUN, [tmp_path / name]).json(name)["study"] == "complete"
    assert Results(tmp_path, RUN, [tmp_path / "partial", tmp_path / "figures"]).json(name)["study"] == "partial"
    assert Results(tmp_path, RUN, [tmp_path / "tables"]).json(name) == {}
    assert Results(tmp_path, RUN, [tmp_path / "tables"]).row("frechet", 1) == {}


def test_a_metric_that_is_measured_twice_is_an_error(root, tmp_path):
    text = (root / "metrics/metrics.csv").read_text()
    put(tmp_path / "metrics/metrics.csv", text + text.splitlines()[1] + "\n")
    with pytest.raises(ValueError, match="frechet of 1 in features 'encoder-512' has 2 rows"):
        Results(tmp_path, RUN).row("frechet", 1)


def test_the_scripts_write_captions_and_page_from_the_declared_files(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root.parent)
    inputs = [str(path.relative_to(root.parent)) for path in sorted(root.rglob("*.json")) if "fig_1" not in path.name]
    captions_script.main(
        ["--inputs", *inputs, "--config", json.dumps({"run": RUN}), "--out", str(tmp_path / "captions")]
    )
    assert [path.stem for path in sorted((tmp_path / "captions").iterdir())] == [f"dashboard-{RUN}", "table_1"]
    page = tmp_path / "page.html"
    files = {"look": root / "report/look", "viewer": tmp_path / "no", "licences": tmp_path / "no", "out": page}
    argv = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    config = {**SETTINGS, "run": RUN, "tables": {}}
    report_script.main(["--inputs", *inputs, "results/metrics", "--config", json.dumps(config), *argv])
    html = page.read_text()
    assert "Figure 1</strong> is missing" in html and "757" in html


def test_costs_are_summed_over_the_jobs_of_a_rule(root):
    table = costs(Results(root, RUN)).set_index("rule")
    assert table.index.tolist() == ["train", "qc"]
    assert table.loc["train"].tolist() == [2, 400.0, 389.5, 390.5]
    assert costs(Results(root / "nowhere", RUN)).empty
    assert [duration(seconds) for seconds in (8.44, 45, 600, 7200)] == ["8.4 s", "45 s", "10 min", "2.0 h"]


def test_a_packed_volume_is_small_exact_and_centred():
    volume = np.linspace(0, 1, 10 * 12 * 14).reshape(10, 12, 14)
    crop = (slice(2, 9), slice(0, 12), slice(4, 10))
    content = preview.nifti(volume, crop, 2.0)
    assert content == preview.nifti(volume, crop, 2.0)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    assert image.get_data_dtype() == np.uint8 and nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(image.dataobj, np.rint(255 * volume[crop]))
    np.testing.assert_allclose(image.affine @ [3, 5.5, 2.5, 1], [0, 0, 0, 1])


def test_preview_planes_pass_through_the_lesion():
    crop, mask = (slice(1, 9), slice(0, 12), slice(4, 14)), np.zeros((10, 12, 14))
    assert preview.mask_centre(mask, crop) is None
    mask[3, 5, 6:9] = 1
    centre = preview.mask_centre(mask, crop)
    assert centre == [2.5 / 8, round(5.5 / 12, 4), 3.5 / 10]
    image = preview.planes(mask, crop, 2.5, centre)  # the lesion is in all three planes, but not in the middle planes
    assert [int((image[:, part] > 0).sum()) for part in (slice(0, 8), slice(10, 18), slice(20, 32))] == [1, 3, 3]
    assert not preview.planes(mask, crop, 2.5)[:, 10:18].any()
    with Image.open(io.BytesIO(pictures.overlay(image))) as overlay:
        np.testing.assert_array_equal(np.asarray(overlay)[..., 3], image // 2)


def test_previewed_pairs_are_test_pairs_without_names(tmp_path):
    rows, mask = [], np.zeros((8, 8, 8), np.float32)
    mask[2:4, 5, 6] = 1
    for k, split in enumerate(("train", "test", "test")):
        files = {name: str(tmp_path / f"{SECRET}-{k}-{name}.nii.gz") for name in ("image", "mask")}
        nib.save(nib.Nifti1Image(np.full((8, 8, 8), 0.2 + 0.2 * k, np.float32), np.eye(4)), files["image"])
        nib.save(nib.Nifti1Image(mask, np.eye(4)), files["mask"])
        rows.append({"scan": f"{SECRET}-{k}", "split": split, **files})
    put(tmp_path / "pairs.tsv", pd.DataFrame(rows).to_csv(index=False, sep="\t"))
    put(tmp_path / "samples.tsv", pd.DataFrame(rows)[["image", "mask"]].to_csv(index=False, sep="\t"))
    tables = {"test": tmp_path / "pairs.tsv", "samples": tmp_path / "samples.tsv"}
    items = [item for name, path in tables.items() for item in volumes.pair_items(name, path, n=1)]
    labels = [(labels["set"], labels["image"]) for labels, _ in items]
    assert labels == [("test", "FLAIR"), ("test", "mask"), ("samples", "FLAIR"), ("samples", "mask")]
    assert [round(float(volume.max()), 1) for _, volume in items] == [0.4, 1.0, 0.2, 1.0]
    lines = list(volumes.write_items(items, tmp_path, 2.0))
    assert all(line["centre"] == lines[0]["centre"] for line in lines) and SECRET not in json.dumps(lines)
    assert (tmp_path / "samples-mask-0.nii.gz").is_file() and (tmp_path / "test-FLAIR-0.webp").is_file()


def test_invalid_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinity"):
        preview.as_bytes(np.full((2, 2, 2), np.nan))
    with pytest.raises(ValueError, match=r"got shape \(2, 2\), float64"):
        pictures.grey(np.zeros((2, 2)))
    put(tmp_path / "broken.png", "no picture")
    with pytest.raises(ValueError, match="broken.png is not a readable picture"):
        pictures.picture(tmp_path / "broken.png")


def test_pictures_are_scaled_down(tmp_path):
    Image.new("RGBA", (100, 50), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    small = pictures.picture(tmp_path / "clear.png", width=50)
    assert (small.width, small.height) == (50, 25) and small.src.startswith("data:image/webp;base64,")
    tiles = [np.full((2, 3), k, np.uint8) for k in (1, 2, 3)]
    np.testing.assert_array_equal(preview.montage(tiles, 2)[:, ::3], [[1, 2], [1, 2], [3, 0], [3, 0]])


def test_a_digest_of_files_covers_names_and_contents(tmp_path):
    assert files_digest("neuromf/report/page/templates") == files_digest("neuromf/report/page/templates")
    assert files_digest("neuromf/report/page/templates") != files_digest("neuromf/report/captions")
    with pytest.raises(ValueError, match="no folder neuromf/nowhere"):
        files_digest("neuromf/nowhere")
