"""Presets of the growth system (studies/growth/*.yaml): data, model, loss, train, logging of one training.

OmegaConf reads the file and resolves references; these sections check it. Every default leaves the behaviour of the
Exp1 specification, whose preset exp1_baseline_vae.yaml holds no other keys than its own.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ValidationError

from neuromf.config.growth_data import PresetData
from neuromf.config.types import Count, Fraction, NotNegative, Positive, Section, Seed, key

NARROW = {
    "vol": 1,
    "loc": 3,
    "shape": 4,
}  # supervised dimensions at d = 32: volume and location as wide as their targets
# Values by scale on top of those of a preset.
MODEL_SCALES: dict[str, dict[str, Any]] = {
    "ci": {
        "model": {"z_dim": 12, "base_filters": 8, "partition": NARROW},
        "train": {"max_epochs": 2, "steps_per_epoch": 5, "precision": "32"},
    },
    "embedded": {
        "model": {"z_dim": 32, "base_filters": 8, "partition": NARROW},
        "train": {"max_epochs": 15, "lr": 2e-3, "precision": "32", "kl_annealing_epochs": 6},
    },
    "bench": {
        "model": {"z_dim": 64, "base_filters": 16, "partition": NARROW},
        "train": {"max_epochs": 40, "lr": 5e-4, "precision": "32"},
    },
    "paper": {},
}
DELAYS = {"ci": (0, 1), "embedded": (5, 5), "bench": (8, 12), "paper": None}  # epochs before and of the ramp of lambda
Part = Literal["vol", "loc", "shape"]
Ramp = tuple[NotNegative, NotNegative, NotNegative]
ARMS = Literal["sum", "mean", "free_bits", "dip1", "dip2", "broadcast", "standard", "supervised"]


class PresetModel(Section):
    """Section `model`; the first four keys are those of the Exp1 specification."""

    z_dim: Count = key("Latent dimensions d.")
    input_channels: Count = key("Modalities C.", 4)
    base_filters: int = key("Width b of the first stage.", 32, ge=4, multiple_of=4)
    norm: Literal["GROUP"] = key("Normalisation: group normalisation only, since batches are small.", "GROUP")
    encoder_depth: Count | None = key("Stages of the encoder; null: 4, fewer for small ROIs.", None)
    decoder_depth: Count | None = key("x2 stages of the decoder; null: 5, fewer for small ROIs.", None)
    variant: Literal["baseline", "dipvae_sbd", "tc", "semi"] = key(
        "Loss: ELBO, DIP-VAE, total correlation, supervised parts.", "baseline"
    )
    partition: dict[Part, Count] = key("Widths of supervised parts (semi); the residual has the others.", NARROW)
    isolate: dict[Part, Literal["trunk"]] = key("trunk: the error of a part stops before the layer of mu.", {})
    use_sbd: bool = key("Spatial broadcast decoder.", False)
    upsample: Literal["deconv", "resize_conv"] = key("Upsampling of the standard decoder.", "deconv")
    encoder_pool: Literal["flatten", "gap", "moments"] = key(
        "flatten keeps positions of the last map; gap averages over them; moments: ln of the mean and centre of mass "
        "of every channel.",
        "flatten",
    )
    encoder_narrow: Count | None = key("Channels before flattening; null: all.", None)
    spectral_norm: bool = key("Spectral normalisation of convolutions.", False)
    gradient_checkpointing: bool = key("Recompute activations in the backward pass: less memory, more time.", False)


class PresetLoss(Section):
    """Section `loss`."""

    reduction: Literal["sum", "mean", "nll"] = key("sum: summed error; mean: mean error; nll: nats per number.", "sum")
    sigma: Positive | Literal["learned"] = key("Standard deviation of nll; learned: its optimum.", 0.5**0.5)
    lambda_od: NotNegative = key("Weight of off-diagonal covariances.", 10.0)
    lambda_d: NotNegative = key("Weight of variances.", 5.0)
    lambda_start_epoch: NotNegative = key("Epochs without covariance penalties.", 20)
    lambda_cov_annealing_epochs: NotNegative = key("Epochs of their ramp.", 40)
    dip: Literal["I", "II"] = key("DIP-VAE I (means) or II (means and variances).", "II")
    dip_estimator: Literal["batch", "bank", "ustat"] = key("Estimator of covariances.", "batch")
    dip_pairs: Literal["sum", "mean"] = key("Sum or mean over pairs of dimensions.", "sum")
    dip_gate: Literal["au"] | None = key("au: no penalties while active units fail.", None)
    bank_size: int = key("Posteriors in the bank.", 512, ge=512)
    compute_in_fp32: bool = key("Covariances in float32.", True)
    use_ddp_gather: bool = key("Covariances of the batches of all processes.", False)
    beta_tc: NotNegative = key("Weight of the total correlation.", 6.0)
    tc_annealing_epochs: NotNegative = key("Epochs of its ramp.", 40)
    semantic: dict[Part, Ramp] = key(
        "Weight, first epoch and ramp of the squared error of each part.",
        {"vol": (20, 30, 40), "loc": (12, 80, 40), "shape": (15, 120, 50)},
    )
    semantic_decay: Ramp = key("Fraction that these weights decay to, first and last epoch.", (0.5, 400, 550))
    dcor: Ramp = key("Weight, first epoch and ramp of distance correlations across parts.", (5, 150, 50))
    dcor_bank: Count = key("Earlier samples that they are computed with.", 256)
    lambda_cross: NotNegative = key("Weight of covariances across parts.", 10.0)
    lambda_hinge: NotNegative = key("Weight of the hinge on variances.", 0.0)
    lambda_aux: NotNegative = key("Weight of the reconstruction from the residual alone.", 0.5)
    beta_supervised: NotNegative = key("Weight of the KL of supervised parts, relative to kl_beta.", 0.0)
    curriculum_epochs: Positive | None = key(
        "Length of training that the epochs of semantic, semantic_decay and dcor refer to; they are scaled to "
        "max_epochs. null: no scaling.",
        None,
    )


class PresetTrain(Section):
    """Section `train`; seed to devices are the keys of the Exp1 specification."""

    seed: Seed = key("Seed of weights, batches, noise and split.", 42)
    max_epochs: Count = key("Epochs.")
    lr: Positive = key("Learning rate of AdamW.")
    kl_beta: NotNegative = key("Final weight of the KL divergence.", 1.0)
    kl_annealing_epochs: NotNegative = key("Epochs of the ramp, or of all cycles.", 40)
    precision: Annotated[Literal["16-mixed", "bf16-mixed", "32"], BeforeValidator(str)] = key(
        "16-mixed runs as bf16-mixed on a CPU.", "32"
    )
    accelerator: Literal["auto", "cpu", "gpu"] | None = key("Device; null: what is there.", None)
    devices: Count | None = key("Processes; null: 1.", None)
    steps_per_epoch: Count | None = key("Largest number of steps per epoch; null: all batches.", None)
    weight_decay: NotNegative = key("Weight decay of AdamW.", 0.01)
    kl_schedule: Literal["linear", "cyclical", "constant"] = key("Schedule of beta.", "linear")
    kl_cycles: Count = key("Cycles.", 4)
    kl_cycle_ratio: Fraction = key("Fraction of a cycle in which beta rises.", 0.5, gt=0)
    kl_free_bits: NotNegative = key("Nats per dimension that cost nothing.", 0.0)
    kl_free_bits_mode: Literal["batch_mean", "per_sample"] = key("What free bits are applied to.", "batch_mean")
    kl_capacity: NotNegative | None = key("Nats that the KL divergence is held at; null: off.", None)
    gradient_clip_val: Positive | None = key("Largest gradient norm; null: no clipping.", None)
    posterior_logvar_min: float | None = key("Lower bound of logvar, whose upper bound is 6; null: none.", None)


class PresetLogging(Section):
    """Section `logging`."""

    save_dir: str = key("Folder of run directories.", "experiments/runs")
    recon_every_n_epochs: Count = key("Epochs between reconstructions as PNG.", 5)
    num_recon_samples: Count = key("Reconstructed subjects.", 2)
    wandb: Literal["off", "offline"] = key("Weights & Biases, offline (pip install 'neuromf[wandb]').", "off")
    tensorboard: bool = key("TensorBoard files (pip install tensorboard).", False)


class Preset(Section):
    """One training of the growth system."""

    data: PresetData = key("Subjects and images.")
    model: PresetModel = key("Network.")
    loss: PresetLoss = key("Loss.", PresetLoss())
    train: PresetTrain = key("Optimisation.")
    logging: PresetLogging = key("Files.", PresetLogging())


class Experiment(Section):
    preset: str = key("File of a preset in studies/growth.", path=True)


LONG: dict[str, Any] = {"arms": list(get_args(ARMS)), "seeds": [0, 1], "max_epochs": 30}  # of the target growth_long


class Collapse(Section):
    preset: str = key("File of the preset that arms change.", "studies/growth/collapse.yaml", path=True)
    arms: list[ARMS] = key("Losses and decoders that are compared.", ["sum", "mean", "dip2", "supervised"])
    seeds: list[Seed] = key("Seeds of every arm.", [0], min_length=1)
    max_epochs: Count | None = key("Epochs of every arm; null: those of the preset.", None)

    def overrides(self, scale: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Values on top of the preset: section data, epochs with a ramp of beta over 40 % of them, small networks."""
        small = MODEL_SCALES["ci"] if scale == "ci" else {"model": {}, "train": {}}
        epochs = (
            {"max_epochs": self.max_epochs, "kl_annealing_epochs": 0.4 * self.max_epochs} if self.max_epochs else {}
        )
        return {"data": dict(data), "model": small["model"], "train": {**epochs, **small["train"]}}


def read_preset(path: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> dict[str, Any]:
    """Sections of a preset as keyword arguments of `neuromf.growth.train.train`, with its name.

    Arguments:
        path: YAML file.
        overrides: Nested values, or texts such as "train.max_epochs=2", on top of the file.

    Raises:
        SystemExit: With one line for each wrong key: its name, what is allowed and what was found.
    """
    from omegaconf import OmegaConf

    from neuromf.config.study import explain

    changes = OmegaConf.create(dict(overrides)) if isinstance(overrides, Mapping) else _dotlist(overrides)
    merged = OmegaConf.merge(OmegaConf.load(path), changes)
    try:
        values = OmegaConf.to_container(merged, resolve=True)
        preset = Preset.model_validate(values)
    except ValidationError as error:
        lines = [explain(row, Preset) for row in error.errors()]
        raise SystemExit("\n".join([f"preset {path} refused, nothing was run:", *lines])) from None
    return {"name": Path(path).stem, **preset.model_dump(mode="json")}


def _dotlist(texts: Sequence[str]) -> Any:  # noqa: ANN401  # a config of OmegaConf
    """Overrides such as train.max_epochs=2, or JSON objects."""
    from omegaconf import OmegaConf

    parts = [OmegaConf.create(json.loads(one)) if one.lstrip().startswith("{") else OmegaConf.from_dotlist([one])
             for one in texts]  # fmt: skip
    return OmegaConf.merge({}, *parts)


def scale_values(scale: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a scale on top of a preset, with those of its section data."""
    delay = DELAYS[scale]
    ramp = {"lambda_start_epoch": delay[0], "lambda_cov_annealing_epochs": delay[1]} if delay else {}
    return {"data": dict(data), "loss": ramp, **MODEL_SCALES[scale]}
