"""A run that others can use: weights, settings and terms in one folder, read again by `generate.load_run`.

    weights.safetensors   the averaged network (net.*), the Gaussian it starts from (prior.*), and the decoder of the
                          autoencoder (decoder.*) where its licence lets it go along
    config.json           all that is needed to build them, to draw the same volumes again, and what made them
    card.json, README.md  the model card (`card.py`)
    LICENSE.md            terms of everything in the folder

Published weights of an autoencoder are not copied: the folder names their file, address and SHA-256, and they are
checked against it when they are loaded.

The same seed gives the same volumes bit for bit on a CPU of the same kind with the same version of torch, the same
batch of samples and the same number of threads. In another batch they differ by the rounding of float32.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from neuromf.core.files import atomic_write
from neuromf.meanflow.run import Run
from neuromf.vae import maisi
from neuromf.vae.weights import check_state, load

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
DECODES = ("decoder.", "post_quant_conv.")  # parts of an autoencoder that a latent goes through on its way to a volume
KEPT_STATS = ("mean", "std", "shape")  # what generation needs of the statistics of training latents

EXAMPLE = """\
from pathlib import Path
from neuromf.export import load_decoder, sampling
from neuromf.generate import load_run, write_samples

folder = Path("results/export")
write_samples(load_run(folder), load_decoder(folder), Path("brains"), n=4, **sampling(folder))
"""  # five lines from the folder to NIfTI; the model card and the README show them


class Decoder(maisi.MAISIVAEWrapper):
    """The second half of an autoencoder, from latents to volumes; the first is not in a packed run."""

    def encode(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("a packed run holds the decoder alone; to encode, load the study's vae.safetensors")


# --- packing -----------------------------------------------------------------------------------------


def pack(
    run: Run,
    net: Mapping[str, Any],
    autoencoder: maisi.MAISIVAEWrapper,
    folder: Path,
    *,
    decoder: Mapping[str, Any],
    sampling: Mapping[str, Any],
    made_by: Mapping[str, Any],
) -> None:
    """Write weights and settings of a run into a folder, each file whole or not at all.

    Arguments:
        run: The run with its averaged weights, on the CPU.
        net: Keyword arguments of `nets.UNet` that its network was built with.
        autoencoder: That of the study.
        folder: Is made where it is not there; other files in it are left alone.
        decoder: Terms of the autoencoder as `terms` gives them; its weights go along where `included` is true.
        sampling: How the study draws volumes: steps, seed, sampler, batch, spacing_mm, dtype and precision.
        made_by: Study, run, versions, digest of the code and the like, in the words of JSON.
    """
    tensors = {f"net.{name}": weight for name, weight in run.u.net.state_dict().items()}
    if run.u.prior is not None:
        tensors |= {f"prior.{name}": buffer for name, buffer in run.u.prior.state_dict().items()}
    if decoder["included"]:
        tensors |= {f"decoder.{name}": weight for name, weight in decoding(autoencoder).items()}
    packed = save({name: tensor.contiguous() for name, tensor in sorted(tensors.items())})
    config = {
        **made_by,
        "net": dict(net),
        "prediction": run.u.prediction,
        "head": run.u.head,
        "stats": {name: run.stats[name] for name in KEPT_STATS},
        "sampling": dict(sampling),
        "decoder": {**decoder, "architecture": asdict(autoencoder.architecture)},
        "weights_sha256": hashlib.sha256(packed).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / WEIGHTS) as part:
        part.write_bytes(packed)
    write_json(config, folder / CONFIG)


def decoding(autoencoder: maisi.MAISIVAEWrapper) -> dict[str, Tensor]:
    """Weights of the decoder alone, by name."""
    return {name: w for name, w in autoencoder.net.state_dict().items() if name.startswith(DECODES)}


def terms(settings: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Whether the decoder of an autoencoder may go along, and where it is found if not.

    Weights that the package brings, or that the study made from nothing, may. Others belong to whoever published
    them, also after further training.

    Arguments:
        settings: Section vae of the config: weights, steps, sha256, url, licence.
        weights: The file of the study's autoencoder.

    Returns:
        included; weights ("packaged", "own" or "published") and steps of training on the study's people; and of
        published ones file, address, sha256 and licence.
    """
    kind = {None: "own", "packaged": "packaged"}.get(settings["weights"], "published")
    about = {"included": kind != "published", "weights": kind, "steps": settings["steps"]}
    if about["included"]:
        return about
    there = weights if settings["steps"] or not Path(settings["weights"]).is_file() else Path(settings["weights"])
    with there.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    address = None if settings["steps"] else settings["url"]
    return {**about, "file": there.name, "sha256": found, "address": address, "licence": settings["licence"]}


def write_json(thing: Mapping[str, Any], path: Path) -> None:
    """Write a dict as JSON with sorted keys, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(thing, sort_keys=True, indent=1) + "\n", encoding="utf-8")


# --- loading -----------------------------------------------------------------------------------------


def config(folder: str | Path) -> dict[str, Any]:
    """The settings of a packed run.

    Raises:
        FileNotFoundError: If the folder holds none.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: it is no run packed by the rule export")
    return json.loads(path.read_text(encoding="utf-8"))


def sampling(folder: str | Path, **changed: Any) -> dict[str, Any]:
    """How the study drew its volumes, as `generate.write_samples` takes it, with what is changed: steps, seed, ...

    Raises:
        ValueError: If something else than these is changed.
    """
    stored = config(folder)["sampling"]
    if unknown := sorted(changed.keys() - stored.keys()):
        raise ValueError(f"only {', '.join(sorted(stored))} can be changed; got {', '.join(unknown)}")
    return {**stored, **changed}


def load_decoder(folder: str | Path, weights: str | Path | None = None) -> maisi.MAISIVAEWrapper:
    """The decoder of a packed run, frozen, on the CPU.

    Arguments:
        weights: File of the published autoencoder, for a run whose folder only names it.

    Raises:
        FileNotFoundError: If the folder only names the autoencoder and no file is given, with where it is to be had.
        ValueError: If a file is not the one that the folder names.
    """
    about = config(folder)["decoder"]
    if not about["included"]:
        return _published(about, folder, weights)
    architecture = {**about["architecture"], "widths": tuple(about["architecture"]["widths"])}
    decoder, file = Decoder(maisi.Architecture(**architecture)), Path(folder) / WEIGHTS
    stored = {name.removeprefix("decoder."): w for name, w in load_file(file).items() if name.startswith("decoder.")}
    check_state(stored, {name: w.shape for name, w in decoding(decoder).items()}, file)
    decoder.net.load_state_dict(stored, strict=False)
    return decoder


def _published(about: Mapping[str, Any], folder: str | Path, weights: str | Path | None) -> maisi.MAISIVAEWrapper:
    """The autoencoder that a folder names, from a file of its digest."""
    if weights is None or not Path(weights).is_file():
        licence = about["licence"]["name"] if about["licence"] else "the licence of who published it"
        raise FileNotFoundError(
            f"{folder} names its autoencoder, whose weights come under {licence} and do not go along: fetch "
            f"{about['file']} from {about['address'] or 'where the study had it from'} (SHA-256 {about['sha256']}) and "
            f"give its path, load_decoder(folder, weights=...); got {weights}"
        )
    with Path(weights).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != about["sha256"]:
        raise ValueError(f"{weights} has SHA-256 {found}, {folder} was made with {about['sha256']}: another file")
    return load(Path(weights))
