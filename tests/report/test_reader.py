"""The reader test: which volumes it holds, in which order, how large it is, and what the page shows of it."""

import base64
import io
import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from report.report_study import put, put_reader, put_study, render

from neuromf.core import seeds
from neuromf.figures import brains
from neuromf.report.page import pictures, reader
from neuromf.vae import maisi, weights
from workflow_scripts import report_reader as reader_script

GRID, LATENT = (16, 20, 12), (4, 4, 5, 3)
SETTINGS = {"n_pairs": 12, "seed": 0, "spacing_mm": 10.0}


def normal(*shape, key):
    return torch.randn(shape, generator=seeds.generator("test", "reader", key))


@pytest.fixture(scope="module")
def net():
    return weights.build_autoencoder(maisi.COMPACT, None, seed=0)


@pytest.fixture
def study(net, tmp_path):
    """Function that writes the inputs of the rule; test scan k is scan-k, in two shards, sample k has brightness k."""

    def make(n_test=3, n_samples=4):
        scans = ["train", *(f"scan-{k}" for k in range(n_test)), "bad"]
        table = pd.DataFrame({"scan": scans, "split": ["train", *["test"] * (n_test + 1)]})
        table.assign(status=["accepted"] * (n_test + 1) + ["quarantined"]).to_csv(
            tmp_path / "qc.tsv", sep="\t", index=False
        )
        for shard, names in enumerate((scans[:2], scans[2:-1])):
            moments = {"mean": normal(len(names), *LATENT, key=shard), "augmented": torch.zeros(0, *LATENT)}
            shard_file = {"scans": names, "augmented_scans": [], **moments, "std": moments["mean"].abs()}
            torch.save(shard_file, tmp_path / f"{shard}.pt")
        weights.save_weights(net, tmp_path / "vae.safetensors")
        (tmp_path / "nfe-1").mkdir()
        files = [str(tmp_path / f"nfe-1/{k}.nii.gz") for k in range(n_samples)]
        for k, file in enumerate(files):
            nib.save(nib.Nifti1Image(np.full(GRID, (k + 1) / 10, np.float32), np.eye(4)), file)
        pd.DataFrame({"file": files}).to_csv(tmp_path / "nfe-1/samples.tsv", sep="\t", index=False)
        return tmp_path

    return make


def written(folder, name="reader.json", **changes):
    where = ["--qc", folder / "qc.tsv", "--latents", folder / "0.pt", folder / "1.pt", "--samples", folder / "nfe-1"]
    where += ["--weights", folder / "vae.safetensors", "--config", json.dumps(SETTINGS | changes)]
    reader_script.main([*map(str, where), "--out", str(folder / name)])
    return json.loads((folder / name).read_text())


def pixels(uri):
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return np.asarray(image.convert("L"), float)


def test_half_are_the_last_samples_and_half_the_decoded_latents_of_the_last_test_scans(study, net):
    folder = study()
    record = written(folder, n_pairs=2)
    assert sorted(record["generated"]) == [False, False, True, True]
    assert (record["n_pairs"], record["requested"], record["n_test"], record["n_samples"]) == (2, 2, 3, 4)
    shown = [pixels(images[0]) for images in record["volumes"]]
    levels = sorted(image.mean() for image, one in zip(shown, record["generated"], strict=True) if one)
    assert levels == pytest.approx([0.3 * 255, 0.4 * 255], abs=2)

    latents = torch.load(folder / "1.pt", weights_only=True)["mean"]  # scan-1 and scan-2
    decoded = net.decode(latents)[:, 0].clamp(0, 1).detach().numpy()
    full = tuple(slice(0, n) for n in GRID)
    expected = [brains.cut(volume, "axial", full, SETTINGS["spacing_mm"]).mean() * 255 for volume in decoded]
    got = [image.mean() for image, one in zip(shown, record["generated"], strict=True) if not one]
    assert sorted(got) == pytest.approx(sorted(expected), abs=2)


def test_the_order_depends_on_the_seed_alone(study):
    folder = study(n_test=6, n_samples=6)
    first, again, other = written(folder), written(folder, "again.json"), written(folder, "other.json", seed=1)
    assert first == again and (folder / "reader.json").read_bytes() == (folder / "again.json").read_bytes()
    assert other["generated"] != first["generated"] and sorted(other["volumes"]) == sorted(first["volumes"])
    assert first["generated"] not in (sorted(first["generated"]), sorted(first["generated"], reverse=True))


@pytest.mark.parametrize(("n_test", "n_samples", "n"), [(3, 5, 3), (5, 2, 2), (0, 4, 0)])
def test_a_small_study_has_as_many_pairs_as_it_can(study, tmp_path, n_test, n_samples, n):
    record = written(study(n_test, n_samples))
    assert record["n_pairs"] == n and len(record["volumes"]) == len(record["generated"]) == 2 * n
    assert sum(record["generated"]) == n
    put_study(tmp_path / "results")
    (tmp_path / "results/report/reader.json").write_text(json.dumps(record))
    text = " ".join(re.sub(r"<[^>]+>", "", render(tmp_path / "results")).split())
    if n:
        assert f"{n_test} test scans and {n_samples} samples, so the test has {n} pairs in place of 12." in text
    else:
        assert "The reader is missing: this study has 0 test scans and 4 samples." in text


def test_names_of_scans_are_not_written(study):
    folder = study()
    written(folder)
    assert "scan-" not in (folder / "reader.json").read_text() and "nii" not in (folder / "reader.json").read_text()


def test_slices_are_large_and_of_equal_size_in_all_volumes(study):
    record = written(study())
    assert [[*pixels(uri).shape[::-1]] for uri in record["volumes"][0]] == [
        [reader.WIDTH, round(high * reader.WIDTH / wide)] for wide, high in record["sizes"]
    ]
    shapes = {tuple(pixels(uri).shape for uri in images) for images in record["volumes"]}
    assert len(shapes) == 1


def test_pictures_fit_into_the_limit_in_the_highest_quality_that_does(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (4, 3, 60, 50)).astype(np.uint8)
    best = sum(len(uri) for images in reader.encode(noise) for uri in images)
    assert reader.encode(noise)[0][0] == pictures.webp_uri(
        pictures.grey(noise[0, 0], reader.WIDTH, reader.QUALITIES[0])
    )
    monkeypatch.setattr(reader, "LIMIT", best - 1)
    assert reader.encode(noise)[0][0] == pictures.webp_uri(
        pictures.grey(noise[0, 0], reader.WIDTH, reader.QUALITIES[1])
    )
    assert sum(len(uri) for images in reader.encode(noise) for uri in images) < best


def section_of(html):
    section = html[html.index('<section id="reader"') :]
    return section[: section.index("</section>")]


def test_the_page_shows_no_truth_and_names_a_reader_that_is_missing(tmp_path):
    root = put_study(tmp_path / "results")
    section = section_of(render(root))
    assert "in place of" not in section  # 12 pairs
    index = json.loads(re.search(r'id="reader-volumes">(.*?)</script>', section)[1])
    record = json.loads((root / "report/reader.json").read_text())
    assert set(index) == {"volumes", "key"} and index["volumes"] == record["volumes"]
    assert [one == "1" for one in base64.b64decode(index["key"]).decode()] == record["generated"]
    put(root / "report/reader.json", record | {"generated": [not one for one in record["generated"]]})
    other = section_of(render(root))
    assert other != section and other.split("<script")[0] == section.split("<script")[0]
    assert other.split("</script>")[1:] == section.split("</script>")[1:]
    (root / "report/reader.json").unlink()
    assert "<strong>The reader</strong> is missing: not generated yet." in render(root)


def test_the_page_grows_by_less_than_3_mb(tmp_path):
    root = put_study(tmp_path / "results")
    (root / "report/reader.json").unlink()
    without = len(render(root).encode())
    noise = np.random.default_rng(0).integers(0, 255, (24, 3, 160, 130)).astype(np.uint8)
    put_reader(root, volumes=reader.encode(noise))  # harder to compress than any brain
    assert 1e5 < len(render(root).encode()) - without < 3e6
