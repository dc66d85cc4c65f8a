"""The volume viewer of the page: NiiVue and the code that drives it, bundled into one script from the lock file.

npm installs the packages into a temporary folder and checks each against the digest in niivue/package-lock.json. Only
the bundle and the licences of its packages are kept. Without npm, or offline, the bundle is an empty script that states
the reason, and the page shows pictures instead.
"""

import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from neuromf.core.files import write_text

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("niivue")
UNUSED = ("zarrita", "@zarrita/storage", "numcodecs")  # readers of Zarr stores over a network
CI = ("ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund")
TIMEOUT_S = 300


class BundleError(Exception):
    """The bundle cannot be built; the message is shown on the page."""


def build(script: Path, licences: Path) -> str:
    """Write the bundle and the licences of its packages; if it cannot be built, an empty bundle with the reason.

    Arguments:
        script: JavaScript file that defines `neuromfViewer`.
        licences: Text file with name, version and licence of each package.

    Returns:
        The reason why there is no viewer, "" if there is one.
    """
    try:
        code, texts, reason = *bundle(), ""
    except BundleError as error:
        code, texts, reason = f"// No viewer: {error}\n", "", str(error)
        logger.warning("the page will show pictures instead of the viewer: %s", reason)
    write_text(script, code)
    write_text(licences, texts)
    return reason


def bundle() -> tuple[str, str]:
    """The bundle and the licences of its packages.

    Raises:
        BundleError: If npm is missing, the packages cannot be downloaded, or esbuild fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise BundleError("npm is not installed; install Node.js 20 or newer with npm, then snakemake -R viewer")
    with tempfile.TemporaryDirectory(prefix="neuromf-viewer-") as name:
        folder = Path(name) / "viewer"
        shutil.copytree(SOURCE, folder)
        _run([npm, *CI], folder, "npm could not download the packages of the viewer, see results/logs/viewer.log")
        _run(_esbuild(folder), folder, "esbuild could not bundle the viewer, see results/logs/viewer.log")
        used = json.loads((folder / "meta.json").read_text())["inputs"]
        return (folder / "out.js").read_text(encoding="utf-8"), licences_of(folder, used)


def _esbuild(folder: Path) -> list[str]:
    flags = ["--bundle", "--minify", "--format=iife", "--global-name=neuromfViewer", "--legal-comments=none"]
    flags += [f"--alias:{name}=./empty.cjs" for name in UNUSED]
    flags += ["--target=es2022", "--charset=utf8", "--metafile=meta.json", "--outfile=out.js", "--log-level=warning"]
    return [str(folder / "node_modules" / ".bin" / "esbuild"), "viewer.js", *flags]


def _run(command: Sequence[str], folder: Path, message: str) -> None:
    """Run a command and log its output."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("%s", error)
        raise BundleError(message) from error
    for line in (done.stdout + done.stderr).splitlines():
        logger.info("%s", line)
    if done.returncode:
        raise BundleError(message)


def licences_of(folder: Path, used: Sequence[str]) -> str:
    """Names, versions and licence texts of the packages in the bundle.

    Arguments:
        folder: Folder with node_modules/, and licences/ for packages without a licence file.
        used: Files in the bundle, as esbuild lists them.

    Raises:
        BundleError: If a package has no licence text.
    """
    packages = sorted({_package(file) for file in used if file.startswith("node_modules/")})
    return "\n\n".join(_licence(folder, name) for name in packages) + "\n"


def _package(file: str) -> str:
    parts = file.split("/")
    return "/".join(parts[1:3]) if parts[1].startswith("@") else parts[1]


def _licence(folder: Path, name: str) -> str:
    about = json.loads((folder / "node_modules" / name / "package.json").read_text())
    stored = folder / "licences" / f"{name.replace('/', '__')}.txt"
    found = sorted(path for path in (folder / "node_modules" / name).iterdir() if path.name.lower().startswith("licen"))
    if not found and not stored.is_file():
        raise BundleError(f"{name} {about['version']} has no licence file; add its text to {SOURCE.name}/licences/")
    text = (found[0] if found else stored).read_text(encoding="utf-8").strip()
    return f"{name} {about['version']} ({about.get('license', 'licence below')})\n\n{text}"
