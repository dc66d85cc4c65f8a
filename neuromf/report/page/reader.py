"""Volumes of the reader test: generated ones and autoencoded test participants as pictures, in random order."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from numpy.typing import NDArray

from neuromf.core.files import write_json
from neuromf.core.seeds import generator
from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table
from neuromf.figures import brains
from neuromf.report.page import pictures, preview
from neuromf.vae.latents import decode
from neuromf.vae.shards import load_split
from neuromf.vae.weights import load

WIDTH = 440  # smallest width in pixels of a slice
QUALITIES = (90, 80, 65, 50, 35, 20, 5)  # of WebP, from which the first that fits is used
LIMIT = 2.8e6  # characters of all pictures in base64


def write_reader(
    *,
    qc: Path,
    latents: Sequence[Path],
    weights: Path,
    samples: Path,
    n_pairs: int,
    seed: int,
    spacing_mm: float,
    out: Path,
) -> None:
    """Write the pictures of the reader test with their truth (JSON). Names of scans are not written.

    Both halves come from the decoder: test participants are decoded latents, as in the evaluation. The last volumes of
    each set are used, because figures and viewer show the first ones with their names.

    Arguments:
        qc: Table of scans with columns scan, split and status.
        latents: Latent shards of all scans.
        weights: Weights of the autoencoder.
        samples: Folder of one-step samples.
        n_pairs: Number of volumes of each half; fewer if there are fewer samples or test participants.
        seed: Seed of the order.
        spacing_mm: Isotropic voxel size in mm.
        out: JSON file: n_pairs, requested, n_samples, n_test, volumes (data URIs of an axial, a coronal and a sagittal
            slice), sizes (width and height of these three) and generated (truth of each volume).
    """
    scans, files = accepted_test_scans(qc), read_table(samples / "samples.tsv")["file"].tolist()
    n = min(n_pairs, len(scans), len(files))
    record = {"n_pairs": n, "requested": n_pairs, "n_samples": len(files), "n_test": len(scans)}
    order = torch.randperm(2 * n, generator=generator("reader", seed)).tolist()
    generated = [read_volume(file)[0] for file in files[len(files) - n :]]
    volumes = [*generated, *reconstructions(scans[len(scans) - n :], latents, weights)]
    slices = planes([volumes[k] for k in order], spacing_mm) if n else []
    sizes = [[image.shape[1], image.shape[0]] for image in slices[0]] if n else []
    truth = [k < n for k in order]
    write_json(out, {**record, "volumes": encode(slices), "sizes": sizes, "generated": truth})


def accepted_test_scans(qc: Path) -> list[str]:
    """Names of the accepted test scans, in the order of the table."""
    table = read_table(qc)
    return table.loc[(table["status"] == "accepted") & (table["split"] == "test"), "scan"].tolist()


def reconstructions(scans: Sequence[str], latents: Sequence[Path], weights: Path) -> Iterator[NDArray]:
    """Decoded latents (posterior means) of some scans; the latents of other scans are not read."""
    if scans:
        wanted = defaultdict(str, dict.fromkeys(scans, "test"))
        yield from decode(load(weights), load_split(latents, wanted, "test")["mean"]).numpy()


def planes(volumes: Sequence[NDArray], spacing_mm: float) -> list[list[NDArray]]:
    """Axial, coronal and sagittal slice (rows, columns) in uint8 of each volume (I, J, K), with one common crop."""
    crop = brains.box(volumes)
    return [[brains.cut(preview.as_bytes(x), plane, crop, spacing_mm) for plane in brains.PLANES] for x in volumes]


def encode(slices: Sequence[Sequence[NDArray]]) -> list[list[str]]:
    """Data URIs of slices, in the highest quality for which all of them fit into LIMIT characters."""
    for quality in QUALITIES:
        uris = [[pictures.webp_uri(pictures.grey(x, WIDTH, quality)) for x in images] for images in slices]
        if sum(len(uri) for images in uris for uri in images) <= LIMIT:
            break
    return uris
