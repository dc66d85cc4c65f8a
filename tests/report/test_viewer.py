"""The bundle of the volume viewer: pinned packages, licences, and an empty bundle with the reason without npm."""

import json

import pytest
from report.report_study import put, put_study, render

from neuromf.report.page import viewer


def test_without_npm_the_bundle_is_empty_and_the_page_states_the_reason(tmp_path, monkeypatch):
    root = put_study(tmp_path / "results")
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = viewer.build(tmp_path / "viewer.js", tmp_path / "licences.txt")
    assert reason.startswith("npm is not installed")
    assert (tmp_path / "viewer.js").read_text() == f"// No viewer: {reason}\n"
    assert "because the viewer could not be built: npm is not installed" in render(root, tmp_path / "viewer.js")


def test_the_lock_file_pins_by_digest_and_names_no_registry():
    lock = json.loads((viewer.SOURCE / "package-lock.json").read_text())
    packages = {name: about for name, about in lock["packages"].items() if name}
    assert {"node_modules/@niivue/niivue", "node_modules/esbuild"} <= packages.keys()
    assert all("integrity" in about and "resolved" not in about for about in packages.values())
    package = json.loads((viewer.SOURCE / "package.json").read_text())
    for name, version in (package["dependencies"] | package["devDependencies"]).items():
        assert packages[f"node_modules/{name}"]["version"] == version


def test_packages_without_licence_are_refused(tmp_path):
    package = tmp_path / "node_modules/@some/thing"
    put(package / "package.json", {"version": "1.0.0", "license": "MIT"})
    used = ["node_modules/@some/thing/a.js", "viewer.js"]
    with pytest.raises(viewer.BundleError, match="@some/thing 1.0.0 has no licence file"):
        viewer.licences_of(tmp_path, used)
    put(package / "LICENSE.md", "Do as you like.")
    assert viewer.licences_of(tmp_path, used) == "@some/thing 1.0.0 (MIT)\n\nDo as you like.\n"
