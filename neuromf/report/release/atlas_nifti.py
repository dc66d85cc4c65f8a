"""Maps of the atlas as NIfTI for other programs: MNI152 space (code 4), left to right by the affine.

For each topic the map that the volume model decodes at the prior mean, and the map of the mean over latents from the
prior with no metadata. Maps state in their header what they are; maps.json has the licence and the SHA-256 of each.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from neuromf.atlas import guards
from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.core.files import atomic_write, sha256, write_json
from neuromf.data.nifti import compress
from neuromf.report.release.atlas_tables import read_source

MNI152 = 4  # NIfTI code of the space, NIFTI_XFORM_MNI_152
DESCRIPTION = 79  # most characters of the description in the header
N_PRIOR = 64  # latents of the map without metadata
LIST = "maps.json"


def write_map(path: str | Path, values: NDArray, affine: NDArray, description: str) -> None:
    """Write a volume (I, J, K) as .nii.gz: float32, millimetres, sform and qform code 4, cal_min 0, cal_max.

    Raises:
        ValueError: If a value is not finite, or the description is longer than the header allows.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: a map must be finite")
    if len(description.encode()) > DESCRIPTION:
        raise ValueError(f"the description has {len(description)} characters, a header holds {DESCRIPTION}")
    image = nib.Nifti1Image(values.astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()
    image.header["cal_min"], image.header["cal_max"] = 0.0, float(values.max())
    image.set_sform(affine, code=MNI152)
    image.set_qform(affine, code=MNI152)
    with atomic_write(path) as part:
        part.write_bytes(compress(image))


def export_maps(*, studies: str | Path, checkpoint: str | Path, out: str | Path, seed: int = 0) -> None:
    """Write the maps of a volume model and their list, maps.json.

    Arguments:
        studies: Folder of studies, for scale and licence.
        checkpoint: Checkpoint of the volume model.
        out: Folder to write.
    """
    atlas, source, out = load_atlas(checkpoint), read_source(studies), Path(out)
    guards.common_scale({"studies": source["scale"], "checkpoint": str(atlas.card["scale"])})
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, text, values in maps_of(atlas, seed):
        write_map(out / f"{name}.nii.gz", values, atlas.grid.affine, f"neuromf atlas: {text}"[:DESCRIPTION])
        rows.append({"file": f"{name}.nii.gz", "description": text, "sha256": sha256(out / f"{name}.nii.gz")})
    stated = {key: source.get(key, "") for key in ("scale", "source", *guards.LICENCE_KEYS)}
    statement = guards.statement(source["scale"])
    write_json(out / LIST, {**stated, "statement": statement, "grid": atlas.grid.name, "checkpoint": sha256(checkpoint),
                            "maps": rows})  # fmt: skip


def maps_of(atlas: Atlas, seed: int = 0) -> Iterator[tuple[str, str, NDArray]]:
    """Name, description and values (I, J, K) of each map."""
    yield "prior_mean", f"mean of {N_PRIOR} prior samples", atlas.sample(None, N_PRIOR, seed).mean(0).numpy()
    topics = [field.columns for field in atlas.schema.fields if field.kind == "topics"] if atlas.schema else []
    for k, words in enumerate(topics[0] if topics else ()):
        m = atlas.metadata(topics=np.eye(len(topics[0]), dtype=np.float32)[k])
        yield (
            f"topic_{k + 1:02d}_{slug(words)}",
            f"topic {words}",
            atlas.decode(torch.zeros(1, atlas.z_dim), m)[0].numpy(),
        )


def slug(words: str) -> str:
    """First words of a topic as part of a file name."""
    return "_".join(re.findall(r"[a-z0-9]+", words.lower())[:3])
