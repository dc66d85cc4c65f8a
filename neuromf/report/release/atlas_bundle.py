"""Release bundle of the atlas: one tarball with its files, manifest, licences and checksums.

    neuromf_atlas/...            files of the release at their place below results/atlas
    neuromf_atlas/manifest.json  scale, licence, attribution, and SHA-256 by file
    neuromf_atlas/SHA256SUMS     the same for `sha256sum -c SHA256SUMS`
    neuromf_atlas/LICENSES.md    which licence holds for what
    neuromf_atlas/LICENSE.txt    text of the licence of the data

Equal files give equal bytes. The upload and the DOI remain with the authors.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from neuromf.atlas import guards
from neuromf.core.files import atomic_write, sha256, write_json

ROOT = "neuromf_atlas"
LICENCES = """\
# Licences

| what | licence |
|---|---|
| studies, tables, latents, maps and all else that is derived from Neurosynth | {licence}; attribution: {attribution} |
| code of neuromf, scripts inside the pages | Apache 2.0 |
| plotly.js beside the pages | MIT, Plotly, Inc. |
| names of brain regions | Harvard-Oxford atlas, names only |

A derived database stays under the licence of its source. The text is in LICENSE.txt.
"""


def write_bundle(folder: str | Path, inputs: Sequence[str | Path], out: str | Path, bundle: str | Path) -> None:
    """Write manifest and tarball of a release.

    Arguments:
        folder: Folder of the cleaned studies, with scale.json and LICENSE.txt.
        inputs: Further files and folders; the scale of every JSON file that has one is checked.
        out: Manifest to write.
        bundle: Tarball to write.

    Raises:
        ValueError: If a file is not of the full data, or the licence is not stated.
    """
    folder = Path(folder)
    source = json.loads((folder / "scale.json").read_text(encoding="utf-8"))
    members = files_of([folder, *map(Path, inputs)])
    guards.require_release({"studies": source["scale"]} | scales_of(members))
    guards.require_licence(source, "the release")
    top = folder.parent
    digests = {path.relative_to(top).as_posix(): sha256(path) for path in members}
    manifest = {**{key: source[key] for key in ("scale", *guards.LICENCE_KEYS)}, "sha256": digests}
    write_json(out, manifest)
    texts = {
        "manifest.json": Path(out).read_text(encoding="utf-8"),
        "SHA256SUMS": "".join(f"{digest}  {name}\n" for name, digest in digests.items()),
        "LICENSES.md": LICENCES.format(**source),
        "LICENSE.txt": (folder / "LICENSE.txt").read_text(encoding="utf-8"),
    }
    with atomic_write(bundle) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in texts.items():
            add(tar, name, text.encode())
        for path in members:
            add(tar, path.relative_to(top).as_posix(), path.read_bytes())
    verify_bundle(bundle)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """All files of paths, those of folders included, each once, sorted."""
    found = {file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
    return sorted(found)


def scales_of(paths: Sequence[Path]) -> dict[str, str]:
    """Scale by path of the JSON files that state one."""
    found = {}
    for path in paths:
        values = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else None
        if isinstance(values, dict) and isinstance(values.get("scale"), str):
            found[str(path)] = values["scale"]
    return found


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file without time and owner."""
    info = tarfile.TarInfo(f"{ROOT}/{name}")
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def verify_bundle(path: str | Path) -> dict[str, str]:
    """SHA-256 by file of a bundle, after comparing every file with the manifest inside.

    Raises:
        ValueError: If a file differs from the manifest, is missing, or is not listed.
    """
    with tarfile.open(path) as tar:
        parts = {member.name.removeprefix(f"{ROOT}/"): tar.extractfile(member) for member in tar if member.isfile()}
        data = {name: part.read() for name, part in parts.items() if part is not None}
    listed = json.loads(data["manifest.json"])["sha256"]
    extra = data.keys() - listed.keys() - {"manifest.json", "SHA256SUMS", "LICENSES.md", "LICENSE.txt"}
    wrong = [name for name, digest in listed.items() if hashlib.sha256(data.get(name, b"")).hexdigest() != digest]
    if wrong or extra:
        raise ValueError(f"{path}: files that differ from the manifest: {', '.join([*wrong, *sorted(extra)])}")
    return listed
