"""Exports of a small run: tables, NIfTI, four ONNX files, Node.js, bundle, Discovery Platform, gate of stage 4."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from atlas.training_helpers import ROOT, run

from neuromf.atlas import criteria, query, voxel_table
from neuromf.atlas.metadata import fit_schema
from neuromf.atlas.point_vae import PointVAE, bounding_box, save_points
from neuromf.core.files import sha256, write_json
from neuromf.data.brain_grid import brain_grid
from neuromf.report.atlas import platform
from neuromf.report.release import atlas_bundle, atlas_nifti, atlas_tables

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TINY = ROOT / "tests/config/tiny.yaml"
WITH_LIBRARY = {**os.environ, "PYTHONPATH": str(ROOT)}
RESULTS = {
    "bits": {mode: {"difference": {"value": 0.05, "low": 0.03, "high": 0.07}} for mode in ("conditional", "completion")}
}


def node_modules():
    """Folder with onnxruntime-node, or None."""
    places = [os.environ.get("NEUROMF_NODE_MODULES", ""), ROOT / "work/node/node_modules"]
    return next((Path(one) for one in places if one and (Path(one) / "onnxruntime-node").is_dir()), None)


@pytest.fixture(scope="module")
def trained(mock_studies, tmp_path_factory):
    """Folder with studies, checkpoints of a volume and a point model, and latents of the point model."""
    folder = tmp_path_factory.mktemp("trained")
    atlas = run(folder, mock_studies, train={"steps": 4, "lr": 2e-2})
    source = {"source": "mock", "licence": "simulated, no licence"}
    scale = json.loads((folder / "studies/scale.json").read_text())
    write_json(folder / "studies/scale.json", {**scale, **source})
    (folder / "studies/LICENSE.txt").write_text("simulated, no licence\n")
    schema, settings = (
        fit_schema(mock_studies.take(mock_studies.rows("train"))),
        {"z_dim": 5, "width": 32, "hidden": 32},
    )
    torch.manual_seed(0)
    points = PointVAE(schema.width, bounding_box(brain_grid("6mm")), **settings)
    for weight in points.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    points.template.copy_(20 * torch.randn(30, 3))
    (folder / "points").mkdir()
    save_points(folder / "points/checkpoint", points, settings, schema, {"scale": "mock"})
    np.savez(folder / "points.npz", mu=np.ones((len(mock_studies), 5)), id=mock_studies.table["id"].to_numpy(str))
    return atlas, folder


def places(folder):
    return {"studies": folder / "studies", "checkpoint": folder / "run/checkpoint"}


@pytest.fixture(scope="module")
def export(trained, tmp_path_factory):
    """Folders tables, maps and onnx of the small run."""
    onnx = pytest.importorskip("neuromf.report.release.atlas_onnx")
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install 'neuromf[onnx]')")
    (_, folder), out = trained, tmp_path_factory.mktemp("export")
    atlas_tables.export_tables(**places(folder), latents=[folder / "points.npz"], out=out / "tables")
    atlas_nifti.export_maps(**places(folder), out=out / "maps")
    onnx.export_onnx(**places(folder), points=folder / "points/checkpoint", out=out / "onnx")
    return out


@pytest.mark.critical
def test_A56_csv_and_parquet_give_back_the_tables_and_state_the_licence(trained, export, mock_studies):
    atlas, _ = trained
    tables = export / "tables"
    schema = json.loads((tables / "schema.json").read_text())
    assert schema["tables"].keys() == {"latents", "metadata", "clusters", "trajectories"}
    latents = atlas_tables.read_table(tables, "latents", "csv")
    pd.testing.assert_frame_equal(latents, atlas_tables.read_table(tables, "latents", "parquet"), check_dtype=False)
    expected, _ = atlas.latents(mock_studies)
    own = latents[latents["model"] == "volume"]
    assert np.array_equal(own[[f"z{k + 1}" for k in range(4)]].to_numpy(np.float32), expected)
    assert latents["model"].value_counts().to_dict() == {"volume": len(mock_studies), "points": len(mock_studies)}
    assert {row["licence"] for rows in schema["tables"].values() for row in rows} == {"simulated, no licence"}
    assert all(schema["sha256"][path.name] == sha256(path) for path in tables.glob("*.csv"))
    years = atlas_tables.read_table(tables, "trajectories", "parquet")
    assert years["n_studies"].sum() == 2 * len(mock_studies)


@pytest.mark.critical
def test_A56_A88_a_table_that_is_not_given_back_and_an_export_without_licence_are_refused(tmp_path, trained):
    table = pd.DataFrame({"id": ["1", "2"], "z1": np.float32([0.1, 1 / 3])})
    source = {"scale": "full", "source": "neurosynth", "licence": "ODbL 1.0", "attribution": "Neurosynth"}
    atlas_tables.write_tables({"latents": table}, tmp_path, source)
    import pyarrow.parquet as pq

    stated = pq.read_schema(tmp_path / "latents.parquet").metadata
    assert stated[b"licence"] == b"ODbL 1.0" and stated[b"attribution"] == b"Neurosynth"
    changed = (tmp_path / "latents.csv").read_text().replace("0.333", "0.334")
    (tmp_path / "latents.csv").write_text(changed)
    with pytest.raises(ValueError, match=r"latents.csv does not give back what was written"):
        atlas_tables.check_round_trip(table, tmp_path, "latents")
    write_json(tmp_path / "scale.json", {"scale": "full", "source": "neurosynth", "licence": "CC0"})
    with pytest.raises(ValueError, match="the export is derived from Neurosynth"):
        atlas_tables.read_source(tmp_path)


@pytest.mark.critical
def test_A79_exports_of_the_subset_are_refused(tmp_path):
    write_json(tmp_path / "scale.json", {"scale": "subset_1k", "source": "neurosynth", "licence": "ODbL 1.0"})
    with pytest.raises(ValueError, match="stage 4 accepts no subset_1k artefact"):
        atlas_tables.read_source(tmp_path)


@pytest.mark.critical
def test_A59_maps_are_in_mni_space_with_codes_and_orientation(tmp_path, export, trained):
    atlas, _ = trained
    listed = json.loads((export / "maps/maps.json").read_text())
    image = nib.load(export / "maps" / listed["maps"][0]["file"])
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 4
    assert np.allclose(image.affine, atlas.grid.affine) and np.allclose(image.header.get_qform(), image.affine)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and image.header.get_xyzt_units()[0] == "mm"
    assert float(image.header["cal_max"]) == pytest.approx(float(image.get_fdata().max()))
    assert image.header["descrip"].tobytes().startswith(b"neuromf atlas: mean of 64 prior samples")
    assert len(listed["maps"]) > 2 and listed["statement"].startswith("Mock data")
    grid = brain_grid("2mm")
    for side, x in (("right", 40.0), ("left", -40.0)):
        values = np.zeros(grid.shape)
        values[tuple(grid.indices([[x, -20, 50]])[0])] = 1
        atlas_nifti.write_map(tmp_path / f"{side}.nii.gz", values, grid.affine, side)
        again = nib.load(tmp_path / f"{side}.nii.gz")
        found = nib.affines.apply_affine(again.affine, np.argwhere(again.get_fdata() == 1)[0])
        assert found.tolist() == [x, -20, 50]
    with pytest.raises(ValueError, match="must be finite"):
        atlas_nifti.write_map(tmp_path / "bad.nii.gz", values * np.nan, grid.affine, "bad")


@pytest.mark.critical
def test_A57_four_onnx_files_agree_with_torch_at_two_batch_sizes(export):
    models = json.loads((export / "onnx/models.json").read_text())
    assert set(models["models"]) == {"volume_encoder", "volume_decoder", "point_encoder", "point_decoder"}
    assert models["batches"] == [1, 2] and all(row["max_error"] <= 1e-4 for row in models["models"].values())
    for name, row in models["models"].items():
        assert row["sha256"] == sha256(export / f"onnx/{name}.onnx")


@pytest.mark.critical
def test_A57_a_file_of_another_checkpoint_is_refused(export, trained):
    from neuromf.report.release import atlas_onnx

    _, folder = trained
    own = sha256(folder / "run/checkpoint")
    session = atlas_onnx.open_session(export / "onnx/volume_decoder.onnx", own)
    assert {one.name for one in session.get_inputs()} == {"z", "m", "observed"}
    with pytest.raises(ValueError, match=f"was exported from checkpoint {own[:12]}, not from"):
        atlas_onnx.open_session(export / "onnx/volume_decoder.onnx", sha256(folder / "points/checkpoint"))


@pytest.mark.critical
def test_A57_a_network_that_differs_from_its_file_is_found(export, trained):
    from neuromf.report.release import atlas_onnx

    atlas, folder = trained
    net = atlas_onnx.VolumeDecoder(atlas)
    net.model.decoder.last.bias.data += 0.05
    z = torch.ones(2, atlas.z_dim)
    known = torch.zeros(2, atlas.model.n_metadata)
    if atlas.model.recon == "poisson":
        net.model.classical.count_bias.data += 0.5
    with pytest.raises(ValueError, match="onnxruntime and torch differ by"):
        atlas_onnx.parity(export / "onnx/volume_decoder.onnx", sha256(folder / "run/checkpoint"), net,
                          {2: {"z": z, "m": known, "observed": known}})  # fmt: skip


@pytest.mark.informational
def test_A58_node_decodes_the_map_of_torch(export, tmp_path):
    modules = node_modules()
    if shutil.which("node") is None or modules is None:
        pytest.skip("Node.js with onnxruntime-node is not installed: make node, or set NEUROMF_NODE_MODULES")
    command = ["node", str(ROOT / "docs/examples/atlas_decode.cjs"), str(export / "onnx"), str(tmp_path / "map.json")]
    environment = {**os.environ, "NODE_PATH": str(modules)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found, example = (json.loads(path.read_text()) for path in (tmp_path / "map.json", export / "onnx/example.json"))
    largest = np.array(example["map"]).max()
    assert largest > 0 and np.abs(np.array(found["map"]) - example["map"]).max() < 1e-3 * largest
    assert found["shape"] == example["shape"]
    shutil.copytree(export / "onnx", tmp_path / "onnx")
    (tmp_path / "onnx/volume_decoder.onnx").write_bytes((export / "onnx/point_decoder.onnx").read_bytes())
    command[2] = str(tmp_path / "onnx")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "models.json lists" in done.stderr


def readme_commands():
    """Shell commands of the README's section on use without Python."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = page[page.index("## The atlas without Python") :].split("\n## ")[0]
    return [line for block in re.findall(r"```shell\n(.*?)```", section, re.S) for line in block.splitlines() if line]


@pytest.mark.informational
def test_A61_the_commands_of_the_readme_run_on_an_export(export, tmp_path):
    """Every command runs in a folder with an export; a program that is not installed is skipped, and then named."""
    (tmp_path / "results/atlas").mkdir(parents=True)
    (tmp_path / "results/atlas/export").symlink_to(export)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    if modules := node_modules():
        (tmp_path / "work/node").mkdir(parents=True)
        (tmp_path / "work/node/node_modules").symlink_to(modules)
    ran, absent = [], []
    for command in readme_commands():
        program = next(word for word in command.split() if "=" not in word)
        if program == "snakemake":
            command = (
                f"{sys.executable} -m {command} --dry-run --quiet --snakefile {ROOT}/Snakefile --configfile {TINY}"
            )
        elif program == "make":
            assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text()
            continue
        elif shutil.which(program) is None or (program == "node" and not modules):
            absent.append(program)
            continue
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, env=WITH_LIBRARY)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        ran.append(done.stdout)
    assert any("id,split,model,z1" in text for text in ran) and len(ran) >= 3, absent
    assert not modules or any("largest difference from PyTorch" in text for text in ran)


@pytest.fixture(scope="module")
def built(trained, export, tmp_path_factory):
    """The platform with one linked page and one figure."""
    from PIL import Image

    (_, folder), out = trained, tmp_path_factory.mktemp("pages")
    (out / "other.html").write_text('<title>Other page</title><p class="lead">What it <b>does</b>.</p>')
    Image.new("RGB", (900, 300), "white").save(out / "fig_2.png")
    write_json(out / "test_results.json", RESULTS)
    write_json(out / "stage_1.json", {"phase": 1, "status": "OPEN", "rows": [{}]})
    platform.write_platform(
        **places(folder), results=out / "test_results.json", pages=[out / "other.html"], figures=[out / "fig_2.png"],
        downloads=[export / name for name in ("tables", "maps", "onnx")], gates=[out / "stage_1.json"],
        out=out / "index.html",
    )  # fmt: skip
    return out / "index.html"


@pytest.mark.informational
def test_A63_links_of_the_platform_resolve_and_missing_files_are_refused(built, tmp_path):
    text = built.read_text()
    targets = re.findall(r'href="([^"#:]+)"', text)
    assert len(targets) > 20 and all((built.parent / target).is_file() for target in targets)
    assert "Other page" in text and "What it does." in text and "Mock data" in text and "default-src 'none'" in text
    assert {Path(one).suffix for one in targets} >= {".csv", ".parquet", ".onnx", ".gz", ".html"}
    with pytest.raises(ValueError, match=r"links .*absent.html, which does not exist"):
        platform.link(tmp_path / "absent.html", built)


@pytest.mark.informational
def test_A63_the_table_of_voxels_is_that_of_single_queries(mock_studies):
    grid = brain_grid("6mm")
    rate = np.full(grid.n_voxels, 1 / grid.n_voxels) * (1 + 0.1 * np.sin(np.arange(grid.n_voxels)))
    table = voxel_table.voxel_table(mock_studies, grid, rate)
    index = query.Index.build(mock_studies, grid, rate)
    for voxel in np.argsort(-table["n_studies"], kind="stable")[[0, 40, 300]]:
        found = query.voxel_to_insight(index, grid.centres_mm[voxel])
        assert table["n_studies"][voxel] == found["n_studies"]
        assert [mock_studies.topic_words[k] for k in table["topics"][voxel]] == [
            r["topic"] for r in found["topics"][:5]
        ]
        assert np.allclose(table["topic_z"][voxel], [row["z"] for row in found["topics"][:5]])
        assert np.allclose(table["trend"][voxel], [found["trend"][k] for k in ("per_year", "standard_error")])
        assert np.isclose(table["novelty"][voxel], found["novelty"])
        first = grid.centres_mm[table["coactivation"][voxel, 0]]
        assert first.tolist() == found["coactivation"][0]["point_mm"]
        names = mock_studies.table["id"].iloc[table["nearest"][voxel]]
        assert set(names) <= {row["id"] for row in found["nearest"]}


@pytest.mark.informational
@pytest.mark.parametrize("width", [390, 1280])
def test_A63_the_platform_answers_a_point_in_a_browser(built, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    messages, requests = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url[:60]))
        page.goto(built.as_uri())
        before = page.locator("#insight").inner_text()
        assert "studies report a focus" in before and "central Gyrus" in before  # between two gyri of these names
        page.locator("#slices canvas").nth(2).click(position={"x": 40, "y": 60})
        assert page.locator("#insight").inner_text() != before
        page.locator("#x").fill("200")
        page.locator("#x").press("Enter")
        assert "outside the brain mask" in page.locator("#insight").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert not messages and all(url.startswith(("file:", "data:")) for url in requests)


def full_release(folder):
    """A folder of studies of full data with one file beside it."""
    (folder / "studies").mkdir(parents=True)
    values = {"scale": "full", "source": "neurosynth", "licence": "ODbL 1.0", "attribution": "Neurosynth"}
    write_json(folder / "studies/scale.json", values)
    (folder / "studies/LICENSE.txt").write_text("ODbL text")
    (folder / "export").mkdir()
    (folder / "export/a.csv").write_text("id\n1\n")
    return [folder / "studies", [folder / "export"], folder / "manifest.json", folder / "bundle.tar"]


@pytest.mark.critical
def test_A62_the_bundle_holds_manifest_checksums_and_licences_and_equal_files_give_equal_bytes(tmp_path):
    parts = full_release(tmp_path)
    atlas_bundle.write_bundle(*parts)
    first = parts[3].read_bytes()
    atlas_bundle.write_bundle(*parts)
    assert parts[3].read_bytes() == first
    listed = atlas_bundle.verify_bundle(parts[3])
    assert listed.keys() == {"studies/scale.json", "studies/LICENSE.txt", "export/a.csv"}
    with tarfile.open(parts[3]) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    inside = tmp_path / "out/neuromf_atlas"
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=inside, capture_output=True, text=True)
    assert done.returncode == 0 and "export/a.csv: OK" in done.stdout
    assert "ODbL 1.0; attribution: Neurosynth" in (inside / "LICENSES.md").read_text()


@pytest.mark.critical
def test_A62_a_changed_file_and_development_data_are_refused(tmp_path):
    parts = full_release(tmp_path)
    atlas_bundle.write_bundle(*parts)
    with tarfile.open(parts[3]) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    (tmp_path / "out/neuromf_atlas/export/a.csv").write_text("id\n2\n")
    with tarfile.open(tmp_path / "changed.tar", "w") as tar:
        tar.add(tmp_path / "out/neuromf_atlas", "neuromf_atlas")
    with pytest.raises(ValueError, match="files that differ from the manifest: export/a.csv"):
        atlas_bundle.verify_bundle(tmp_path / "changed.tar")
    write_json(tmp_path / "export/maps.json", {"scale": "mock"})
    with pytest.raises(ValueError, match=r"a release holds full data alone; refused are .*maps.json \(mock\)"):
        atlas_bundle.write_bundle(*parts)


@pytest.mark.critical
def test_A78_stage_4_measures_the_exports_and_finds_a_changed_table(export, built, tmp_path):
    interval = {"difference": {"value": 0.1, "low": -0.02, "high": 0.2}}
    overlap = {"difference": {"coverage": {"value": 0.3, "low": 0.2, "high": 0.4}}}
    write_json(tmp_path / "prior.json", {"bits": interval, "latents": overlap})
    shutil.copytree(export, tmp_path / "export")
    files = {name: tmp_path / "export" / name for name in ("tables", "maps", "onnx")}
    files |= {"prior": tmp_path / "prior.json", "platform": built}
    rows = {row["id"]: row["value"] for row in criteria.measure(4, files)}
    assert rows["S4-A56"] == 0 and rows["S4-A57b"] == 4 and rows["S4-A59"] == 1 and rows["S4-A88"] == 1
    assert rows["S4-A57"] <= 1e-4 and rows["S4-A71"] == -0.02 and rows["S4-A63"] == 0
    (files["tables"] / "latents.csv").write_text("id\n")
    assert {row["id"]: row["value"] for row in criteria.measure(4, files)}["S4-A56"] == 1
