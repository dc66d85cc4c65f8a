"""Quality of a study's autoencoder and statistics of its latents, from files to JSON."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuromf.core.files import write_json
from neuromf.data.foreground import foreground_mask
from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import volumes_of_split
from neuromf.metrics.images import equivariance, reconstruction
from neuromf.metrics.images.similarity import ssim
from neuromf.vae.latents import decode
from neuromf.vae.shards import check_shards, load_split
from neuromf.vae.statistics import statistics
from neuromf.vae.weights import count_parameters, load


def validate(*, qc: Path, weights: Path, out: Path, n_validated: int) -> None:
    """Write how well test volumes are reconstructed, inside and outside the foreground (`reconstruction.validate`).

    Arguments:
        qc: Table of the volumes with their splits.
        weights: File of the autoencoder.
        out: JSON file to write.
        n_validated: Number of test volumes.
    """
    vae, volumes = load(weights), read_volumes(volumes_of_split(read_table(qc), "test")[:n_validated])
    inside = np.stack([foreground_mask(volume.numpy()) for volume in volumes[:, 0].float()])
    report = reconstruction.validate(vae.encode, vae.decode, volumes, inside)
    write_json(out, {**report, **count_parameters(vae)}, sort_keys=False)


def latent_statistics(
    *, latents: Sequence[Path], qc: Path, weights: Path, out: Path, n_validated: int, precision: str
) -> None:
    """Write statistics of the training latents, SSIM of decoded test latents, and errors of transforming latents.

    Arguments:
        latents: Shards of the study.
        qc: Table of the volumes with their splits.
        weights: File of the autoencoder.
        out: JSON file to write.
        n_validated: Number of test latents to decode.
        precision: "float32" or "bf16", for decoding.
    """
    table, vae = read_table(qc).set_index("scan"), load(weights)
    train, test = (load_split(latents, table["split"], split) for split in ("train", "test"))
    stats = statistics(train["mean"], train["std"])
    decoded = decode(vae, test["mean"][:n_validated], precision=precision)
    volumes = read_volumes(table.loc[test["scans"][:n_validated], "volume"]).float()
    functions, std = (vae.encode, vae.decode), stats["std"]
    flips = equivariance.flip_error(*functions, volumes, std)
    report = {
        **stats,
        **check_shards(latents),
        "reconstruction_ssim": ssim(volumes[:, 0].numpy(), decoded.numpy()).tolist(),
        **flips,
        **equivariance.errors_by_axis(*functions, volumes, std, flip_error=flips["flip_error"], splits=vae.num_splits),
    }
    write_json(out, report, sort_keys=False)
