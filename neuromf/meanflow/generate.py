"""Brains from the generator that is packaged with neuromf: no study, no training, one network evaluation each."""

from pathlib import Path

from numpy.typing import NDArray

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.meanflow.packaged import PACKAGED, spacing_of
from neuromf.meanflow.run import load_run
from neuromf.meanflow.sample import write_samples
from neuromf.vae import weights


def generate(n: int, out: Path | str, *, seed: int = 0, nfe: int = 1, batch: int = 8) -> NDArray:
    """Generate n T1 volumes, write them as NIfTI files into `out`, and return them as an array (n, I, J, K) in [0, 1].

    Volume k of a seed is the same, up to rounding, in any number of volumes.

    Arguments:
        n: Number of volumes.
        out: Folder to write; samples of an earlier call are replaced.
        seed: Seed of the noise.
        nfe: Network evaluations per volume.
        batch: Latents per batch.

    Raises:
        FileNotFoundError: If this installation has no packaged generator.
        FileExistsError: If `out` contains other files than samples.
    """
    out = Path(out)
    run, vae = load_run("packaged"), weights.load(weights.PACKAGED)
    write_samples(run, vae, out, n=n, nfe=nfe, seed=seed, batch=batch, spacing_mm=spacing_of(PACKAGED))
    return read_volumes(read_table(out / "samples.tsv")["file"])[:, 0].float().numpy()
