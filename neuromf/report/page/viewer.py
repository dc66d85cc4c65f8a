"""The viewer of the page: NiiVue and the few lines that drive it, bundled into one script from the lock file.

Packages are fetched by npm, which checks each against the digest in niivue/package-lock.json, into a temporary folder;
nothing of them is kept but the bundle and the licences of what is in it. Where npm is missing, or cannot
fetch, the bundle is empty and says why, and the page shows pictures instead.
"""

import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from neuromf.core.files import atomic_write

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("niivue")
NOT_CALLED = ("zarrita", "@zarrita/storage", "numcodecs")  # readers of Zarr over a network
CI = ("ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund")
TIMEOUT_S = 300


class NotBuilt(Exception):
    """Why there is no bundle, in words for the page."""


def build(script: Path, licences: Path) -> str:
    """Write the bundle and the licences of all that is in it; without npm, an empty bundle that says why.

    Arguments:
        script: The bundle, a script that defines `neuromfViewer`.
        licences: Text file of names, versions and licences.

    Returns:
        Why there is no viewer, "" where there is one.
    """
    try:
        code, words, reason = *bundle(), ""
    except NotBuilt as error:
        code, words, reason = f"// No viewer: {error}\n", "", str(error)
        logger.warning("the page will show pictures instead of the viewer: %s", reason)
    for path, text in ((script, code), (licences, words)):
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")
    return reason


def bundle() -> tuple[str, str]:
    """The bundle and the licences of what is in it.

    Raises:
        NotBuilt: If npm is not installed, cannot fetch the packages, or they cannot be bundled.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NotBuilt("npm is not installed; install Node.js 20 or newer with npm, then snakemake -R viewer")
    with tempfile.TemporaryDirectory(prefix="neuromf-viewer-") as name:
        folder = Path(name) / "viewer"
        shutil.copytree(SOURCE, folder)
        _run([npm, *CI], folder, "npm could not fetch the packages of the viewer, see results/logs/viewer.log")
        _run(_esbuild(folder), folder, "esbuild could not bundle the viewer, see results/logs/viewer.log")
        used = json.loads((folder / "meta.json").read_text())["inputs"]
        return (folder / "out.js").read_text(encoding="utf-8"), licences_of(folder, used)


def _esbuild(folder: Path) -> list[str]:
    flags = ["--bundle", "--minify", "--format=iife", "--global-name=neuromfViewer", "--legal-comments=none"]
    flags += [f"--alias:{name}=./nothing.cjs" for name in NOT_CALLED]
    flags += ["--target=es2022", "--charset=utf8", "--metafile=meta.json", "--outfile=out.js", "--log-level=warning"]
    return [str(folder / "node_modules" / ".bin" / "esbuild"), "viewer.js", *flags]


def _run(command: Sequence[str], folder: Path, otherwise: str) -> None:
    """Run a tool, its words in the log."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("%s", error)
        raise NotBuilt(otherwise) from error
    for line in (done.stdout + done.stderr).splitlines():
        logger.info("%s", line)
    if done.returncode:
        raise NotBuilt(otherwise)


def licences_of(folder: Path, used: Sequence[str]) -> str:
    """Names, versions and licence texts of the packages whose files are in the bundle.

    Arguments:
        folder: Where node_modules lies; licences/ holds the texts that packages do not bring along.
        used: Files of the bundle, as esbuild lists them.

    Raises:
        NotBuilt: If the licence of a package is nowhere to be found: what may not be shared is not bundled.
    """
    packages = sorted({_package(file) for file in used if file.startswith("node_modules/")})
    return "\n\n".join(_licence(folder, name) for name in packages) + "\n"


def _package(file: str) -> str:
    parts = file.split("/")
    return "/".join(parts[1:3]) if parts[1].startswith("@") else parts[1]


def _licence(folder: Path, name: str) -> str:
    about = json.loads((folder / "node_modules" / name / "package.json").read_text())
    kept = folder / "licences" / f"{name.replace('/', '__')}.txt"
    found = sorted(path for path in (folder / "node_modules" / name).iterdir() if path.name.lower().startswith("licen"))
    if not found and not kept.is_file():
        raise NotBuilt(f"{name} {about['version']} brings no licence along; put its text into {SOURCE.name}/licences/")
    text = (found[0] if found else kept).read_text(encoding="utf-8").strip()
    return f"{name} {about['version']} ({about.get('license', 'licence below')})\n\n{text}"
