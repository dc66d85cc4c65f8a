"""Downloads of the atlas from a local server: verified, resumed, and read; the scripts of their rules."""

import gzip
import io
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from data.test_download import sha, site  # noqa: F401  # a server of files
from scipy import sparse

from neuromf.config.atlas import Downloads
from neuromf.data import atlas_downloads
from neuromf.data.atlas_downloads import NEUROSYNTH_FILES, fetch_neurosynth, fetch_statistical_maps
from neuromf.data.download import FetchError
from neuromf.data.statistical_maps import BUTTON_PRESS
from neuromf.simulation.foci import simulate_foci
from workflow_scripts import atlas_neurosynth, atlas_statmaps


@pytest.fixture
def server(site):  # noqa: F811
    """The server with the four files of 30 mock studies, and its address."""
    tables = simulate_foci(30)
    topics = io.BytesIO()
    sparse.save_npz(topics, sparse.csr_matrix(tables.topics))
    texts = [table.to_csv(sep="\t", index=False).encode() for table in (tables.coordinates, tables.metadata)]
    keys = "".join(f"{k}\t0.1\t{word} a b\n" for k, word in enumerate(tables.topic_words)).encode()
    bodies = [*map(gzip.compress, texts), topics.getvalue(), keys]
    site.files = {f"/v7/{name}": body for name, body in zip(NEUROSYNTH_FILES, bodies, strict=True)}
    site.address = site.url.removesuffix("/brain.tar") + "/v7"
    site.sha256 = {name: sha(body) for name, body in zip(NEUROSYNTH_FILES, bodies, strict=True)}
    return site


def test_A01_files_are_downloaded_verified_and_read(server, tmp_path):
    fetch_neurosynth(tmp_path, address=server.address, sha256=server.sha256)
    for name in NEUROSYNTH_FILES:
        assert sha((tmp_path / name).read_bytes()) == server.sha256[name]
    requests = len(server.ranges_requested)
    fetch_neurosynth(tmp_path, address=server.address, sha256=server.sha256)
    assert len(server.ranges_requested) == requests  # files that are there are used


def test_A01_a_broken_download_resumes_where_it_ended(server, tmp_path, monkeypatch):
    quick = {**atlas_downloads.download.__kwdefaults__, "wait_s": 0.001}
    monkeypatch.setattr(atlas_downloads.download, "__kwdefaults__", quick)
    server.faults = [{"drop": 2000}]
    fetch_neurosynth(tmp_path, address=server.address, sha256=server.sha256)
    assert server.ranges_requested[1] == "bytes=2000-"
    assert sha((tmp_path / NEUROSYNTH_FILES[0]).read_bytes()) == server.sha256[NEUROSYNTH_FILES[0]]


def test_A01_another_file_than_expected_is_refused(server, tmp_path):
    with pytest.raises(FetchError, match="expected is " + "0" * 64):
        fetch_neurosynth(tmp_path, address=server.address, sha256={NEUROSYNTH_FILES[1]: "0" * 64})
    assert not (tmp_path / NEUROSYNTH_FILES[1]).exists()
    values = json.dumps({"address": server.address + "/none", "sha256": {}})
    with pytest.raises(SystemExit, match="could not be fetched.*By hand: download"):
        atlas_neurosynth.main(["--folder", str(tmp_path / "other"), "--config", values])


def image(values):
    data = nib.Nifti1Image(np.asarray(values, np.float32).reshape(2, 2, 2), np.eye(4))
    return gzip.compress(data.to_bytes(), mtime=0)


def test_pain_maps_are_the_contrast_over_the_root_of_its_variance(server, tmp_path):
    contrast, variance = [1, -2, 3, 0, 5, 6, 7, 8], [4, 1, 0, 1, np.nan, 9, 1, 4]
    server.files |= {"/v7/contrast_pain_02.nii.gz": image(contrast), "/v7/var_pain_02.nii.gz": image(variance),
                     "/v7/press.nii.gz": image(contrast)}  # fmt: skip
    values = {"button_press": f"{server.address}/press.nii.gz", "pain": server.address, "pain_studies": [2],
              "design_rows": [25], "sha256": {}}  # fmt: skip
    atlas_statmaps.main(["--folder", str(tmp_path), "--config", json.dumps(values)])
    t = nib.load(tmp_path / "pain21/pain_02_t.nii.gz").get_fdata().ravel()
    assert t == pytest.approx([0.5, -2, 0, 0, 0, 2, 7, 4])
    table = pd.read_csv(tmp_path / "maps.tsv", sep="\t")
    assert table.to_dict("records") == [{"map": "pain21/pain_02_t.nii.gz", "design_rows": 25}]
    assert (tmp_path / BUTTON_PRESS).read_bytes() == image(contrast)
    with pytest.raises(FetchError, match="expected is"):
        fetch_statistical_maps(tmp_path / "new", **{**values, "sha256": {BUTTON_PRESS: "0" * 64}})


def test_addresses_of_the_config_name_a_commit_and_known_digests():
    downloads = Downloads()
    for address in (downloads.neurosynth, downloads.button_press, downloads.pain):
        assert address.startswith("https://raw.githubusercontent.com/") and len(address.split("/")[5]) == 40
    assert set(downloads.sha256) <= {*NEUROSYNTH_FILES, BUTTON_PRESS} and len(downloads.pain_studies) == 14
