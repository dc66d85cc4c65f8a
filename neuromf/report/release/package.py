"""A run for others: weights, settings, licences and model card in one folder, which `meanflow.run.load_run` reads.

    weights.safetensors   averaged network (net.*), Gaussian prior (prior.*), and the decoder of the autoencoder
    (decoder.*)
                          if its licence allows it
    config.json           architecture, latent statistics, sampling settings, provenance
    card.json, README.md  the model card, see `model_card`
    LICENSE.md            licences of everything in the folder

Published autoencoder weights are not copied. The folder names their file, address and SHA-256, which `load_decoder`
checks. Equal seeds give identical volumes on the same kind of CPU with the same version of torch, batch size and number
of threads; other batch sizes change volumes by the rounding of float32.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from neuromf.core.files import atomic_write, sha256, write_json, write_text
from neuromf.meanflow.run import Run, load_run
from neuromf.report.release import model_card
from neuromf.report.results import Results
from neuromf.vae import maisi
from neuromf.vae.weights import check_state, load

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
DECODER = ("decoder.", "post_quant_conv.")  # modules of the autoencoder that decode a latent
STATS = ("mean", "std", "shape")  # latent statistics that sampling needs
SAMPLING = ("seed", "sampler", "batch", "precision")  # keys of meanflow.samples that `write_samples` takes

EXAMPLE = """\
from pathlib import Path
from neuromf.meanflow import run, sample
from neuromf.report.release import package

path = Path("results/export")
sample.write_samples(run.load_run(path), package.load_decoder(path), Path("brains"), n=4, **package.sampling(path))
"""  # printed in the model card and in the README


class Decoder(maisi.MAISIVAEWrapper):
    """The decoder of an autoencoder; a packed run has no encoder."""

    def encode(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("a packed run contains only the decoder; to encode, load results/vae/vae.safetensors")


def export(
    *,
    model: Path,
    weights: Path,
    results: Results,
    out: Path,
    study: str,
    source: str,
    spacing_mm: float,
    samples: Mapping[str, Any],
    autoencoder: Mapping[str, Any],
    phases: Sequence[int],
    threads: int,
    code: str,
) -> None:
    """Pack a run with model card and licences into a folder.

    Arguments:
        model: File of the run.
        weights: Autoencoder weights of the study.
        results: Results of the run.
        out: Folder.
        study: Name of the study.
        source: Source of the scans.
        spacing_mm: Isotropic voxel size in mm.
        samples: Config section meanflow.samples.
        autoencoder: Config section autoencoder: weights, steps, sha256, url, licence.
        phases: Phases whose gates the model card lists.
        threads: CPU threads that the study sampled with.
        code: Code digest.
    """
    run, vae, record = load_run(model), load(weights), results.run_record()
    provenance = {"study": study, "run": results.run, "code": code, "versions": record.get("versions", {}),
                  "training": record.get("config", {})}  # fmt: skip
    decoder = terms(autoencoder, weights)
    how = {"nfe": 1, "spacing_mm": spacing_mm, **{name: samples[name] for name in SAMPLING}}
    net = torch.load(model, map_location="cpu", weights_only=True)["net"]
    pack(run, net, vae, out, decoder=decoder, sampling=how, provenance=provenance)

    about = {"study": study, "source": source, "spacing_mm": spacing_mm, "nfe": samples["nfe"],
             "n_samples": samples["n"], "sampling": how, "threads": threads, "decoder": decoder, "code": code,
             "shape": [maisi.DOWNSAMPLING * n for n in run.shape[1:]]}  # fmt: skip
    card = model_card.card(results, about=about, phases=phases)
    write_json(out / "card.json", card)
    write_text(out / "README.md", model_card.markdown(card, EXAMPLE))
    write_text(out / "LICENSE.md", model_card.licence(card))


def pack(
    run: Run,
    net: Mapping[str, Any],
    vae: maisi.MAISIVAEWrapper,
    folder: Path,
    *,
    decoder: Mapping[str, Any],
    sampling: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write weights and settings of a run into a folder.

    Arguments:
        run: The run with its averaged weights, on the CPU.
        net: Keyword arguments of `UNet`.
        vae: Autoencoder of the study.
        folder: Folder; other files in it are kept.
        decoder: Result of `terms`; the decoder is packed if `included` is true.
        sampling: Arguments of `write_samples`: nfe, seed, sampler, batch, spacing_mm and precision.
        provenance: Study, run, versions and code digest.
    """
    tensors = {f"net.{name}": weight for name, weight in run.u.net.state_dict().items()}
    if run.u.prior is not None:
        tensors |= {f"prior.{name}": buffer for name, buffer in run.u.prior.state_dict().items()}
    if decoder["included"]:
        tensors |= {f"decoder.{name}": weight for name, weight in decoder_state(vae).items()}
    packed = save({name: tensor.contiguous() for name, tensor in sorted(tensors.items())})
    config = {
        **provenance,
        "net": dict(net),
        "prediction": run.u.prediction,
        "velocity_head": run.u.velocity_head,
        "stats": {name: run.stats[name] for name in STATS},
        "sampling": dict(sampling),
        "decoder": {**decoder, "architecture": asdict(vae.architecture)},
        "weights_sha256": hashlib.sha256(packed).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / WEIGHTS) as part:
        part.write_bytes(packed)
    write_json(folder / CONFIG, config)


def decoder_state(vae: maisi.MAISIVAEWrapper) -> dict[str, Tensor]:
    """Weights of the decoder by name."""
    return {name: weight for name, weight in vae.net.state_dict().items() if name.startswith(DECODER)}


def terms(autoencoder: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Whether the decoder may be shared, and where to get it if not.

    Packaged weights, and weights trained from scratch, may be shared. Published weights may not, even after further
    training.

    Arguments:
        autoencoder: Config section autoencoder: weights, steps, sha256, url, licence.
        weights: Autoencoder weights of the study.

    Returns:
        included, weights ("packaged", "own" or "published"), steps of training in the study, and for published weights
        file, sha256, address and licence.
    """
    kind = {None: "own", "packaged": "packaged"}.get(autoencoder["weights"], "published")
    about = {"included": kind != "published", "weights": kind, "steps": autoencoder["steps"]}
    if about["included"]:
        return about
    published = Path(autoencoder["weights"])
    file = weights if autoencoder["steps"] or not published.is_file() else published
    address = None if autoencoder["steps"] else autoencoder["url"]
    return {**about, "file": file.name, "sha256": sha256(file), "address": address, "licence": autoencoder["licence"]}


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a packed run."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; expected a run packed by the rule export")
    return json.loads(path.read_text(encoding="utf-8"))


def sampling(folder: str | Path, **changed: Any) -> dict[str, Any]:
    """Sampling settings of a packed run, as arguments of `write_samples`.

    Arguments:
        folder: Folder of the packed run.
        changed: Settings to change, such as nfe or seed.
    """
    stored = read_config(folder)["sampling"]
    if unknown := sorted(changed.keys() - stored.keys()):
        raise ValueError(f"unknown sampling settings: {', '.join(unknown)}; allowed: {', '.join(sorted(stored))}")
    return {**stored, **changed}


def load_decoder(folder: str | Path, weights: str | Path | None = None) -> maisi.MAISIVAEWrapper:
    """The decoder of a packed run, frozen, on the CPU.

    Arguments:
        folder: Folder of the packed run.
        weights: File of the published autoencoder, if the folder only names it.

    Raises:
        FileNotFoundError: If the folder only names the autoencoder and `weights` is missing; the message has its
            address.
        ValueError: If `weights` has another SHA-256 than the folder names.
    """
    about = read_config(folder)["decoder"]
    if not about["included"]:
        return _load_published(about, folder, weights)
    architecture = {**about["architecture"], "widths": tuple(about["architecture"]["widths"])}
    decoder, file = Decoder(maisi.Architecture(**architecture)), Path(folder) / WEIGHTS
    stored = {name.removeprefix("decoder."): w for name, w in load_file(file).items() if name.startswith("decoder.")}
    check_state(stored, {name: w.shape for name, w in decoder_state(decoder).items()}, file)
    decoder.net.load_state_dict(stored, strict=False)
    return decoder


def _load_published(about: Mapping[str, Any], folder: str | Path, weights: str | Path | None) -> maisi.MAISIVAEWrapper:
    """The published autoencoder that a packed run names, checked against its SHA-256."""
    if weights is None or not Path(weights).is_file():
        licence = about["licence"]["name"] if about["licence"] else "the licence of their publisher"
        raise FileNotFoundError(
            f"{folder} does not contain its autoencoder, whose weights are under {licence}; "
            f"download {about['file']} from {about['address'] or 'the source that the study used'} "
            f"(SHA-256 {about['sha256']}) and call load_decoder(folder, weights=PATH); got {weights}"
        )
    if (found := sha256(weights)) != about["sha256"]:
        raise ValueError(f"{weights} has SHA-256 {found}, {folder} expects {about['sha256']}: another file")
    return load(Path(weights))
