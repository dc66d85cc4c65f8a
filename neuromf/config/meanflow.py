"""Block `meanflow`: network, flow, training, samples, the toy torus, and ablations."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neuromf.config.types import Count, Digest, Fraction, Normal, NotNegative, Positive, RunName, Section, Seed, key

Overrides = dict[Literal["net", "flow", "train", "samples"], dict[str, Any]]


class Net(Section):
    widths: list[Count] = key("Channels at each resolution; each further one halves the grid.")
    res_blocks: Count = key("Residual blocks at each resolution.")
    attention: list[bool] = key("Self-attention at each resolution.")
    patch: Count = key("Space-to-depth factor of the latent before the first convolution.")
    head_width: Count = key("Channels of an attention head.", 32)
    norm_groups: Count = key("Groups of the group normalisation.", 16)
    conditioning: Literal["t-h", "t-r", "h"] = key(
        "Times that the network is conditioned on: t and h = t - r, t and r, or h alone.", "t-h"
    )
    position_maps: bool = key(
        "A learned scale and shift at each position after every normalisation: brains are aligned."
    )

    @model_validator(mode="after")
    def check_widths(self) -> "Net":
        if len(self.widths) != len(self.attention):
            raise ValueError(f"net.attention must have one entry per width; got {self.attention} for {self.widths}")
        if odd := [w for w in self.widths if w % self.norm_groups]:
            raise ValueError(f"net.widths must be multiples of norm_groups {self.norm_groups}; got {odd}")
        return self


class Times(Section):
    fraction_r_equals_t: Fraction = key("Fraction of flow-matching pairs, r = t.")
    fraction_corner: Fraction = key("Fraction of pairs uniform in t > 0.9, r < 0.1, where one-step sampling happens.")
    fraction_uniform: Fraction = key("Fraction of pairs uniform in r <= t.", 0.0)
    t_logit_normal: Normal = key("Mean and standard deviation of logit(t).", (-0.6, 1.6))
    r_logit_normal: Normal | None = key(
        "Mean and standard deviation of logit(r), then r = min(t, r). null: t and r follow t_logit_normal, sorted.",
        (-4.0, 1.6),
    )

    @model_validator(mode="after")
    def check_sum(self) -> "Times":
        if self.fraction_r_equals_t + self.fraction_corner + self.fraction_uniform > 1:
            raise ValueError("fraction_r_equals_t, fraction_corner and fraction_uniform must sum to at most 1")
        return self


class Prior(Section):
    """Candidates are all combinations; the one with the highest likelihood on validation participants is used."""

    axes: list[Annotated[int, Field(ge=0)]] = key(
        "Numbers of principal axes. Many axes overfit the training participants.", min_length=1
    )
    block: list[Literal[1, 2, 4]] = key(
        "Positions, along each axis, of the blocks in which the covariance off the axes is known; 1: covariance of "
        "channels at each position.",
        min_length=1,
    )
    shrinkage: list[Fraction] = key(
        "Factors by which the covariances between different positions of a block are reduced.", [0.1], min_length=1
    )

    @property
    def n_candidates(self) -> int:
        return len({(a, b, s if b > 1 else 0) for a in self.axes for b in self.block for s in self.shrinkage})


class Flow(Section):
    prediction: Literal["u", "x"] = key("Output of the network: x (data) or u (average velocity).")
    prior: Prior = key("Gaussian prior that an x-prediction starts from.")
    tangent: Literal["conditional", "predicted", "head"] = key(
        "Direction of the derivative. predicted: u(z, t, t); head: a second velocity head (both iMF); conditional: "
        "eps - x (MF)."
    )
    target: Literal["conditional", "teacher"] = key(
        "Regression target for r < t. teacher: velocity predicted by the EMA network (lower variance); conditional: "
        "eps - x (MeanFlow)."
    )
    derivative: Literal["single_pass", "two_pass"] = key(
        "How u and du/dt are computed. single_pass: fastest; two_pass: least memory."
    )
    derivative_precision: Literal["float32", "bf16"] = key(
        "Precision of du/dt, independent of train.precision. bf16: relative errors of du/dt of 0.2 to 4 %, and "
        "faster only where the hardware has bfloat16 (docs/method.md).",
        "float32",
    )
    p: Positive | list[Positive] = key("Exponent of the loss: one, or a list with one per channel.")
    flow_matching_steps: int = key("First steps with r = t only, before intervals open.", ge=0)
    interval_warmup_steps: int = key("Steps in which the largest interval then grows to 1; 0: no warm-up.", 0, ge=0)
    channel_weights: list[Positive] | None = key("Weight of each channel in the loss; null: ones.", None)
    adaptive_power: NotNegative = key(
        "Each sample's loss is divided by (loss + adaptive_c)^adaptive_power, loss being the sum over elements.", 1.0
    )
    adaptive_c: Positive = key("Offset of the adaptive weight.", 0.01)
    times: Times = key("Sampling of (t, r) in training.")


class Rectified(Section):
    weights: str = key("Path of published rectified-flow weights.", path=True)
    sha256: Digest | None = key("Expected SHA-256 of that file; null: not verified.", None)
    modality: int | None = key("Modality index of the published network (29: skull-stripped T1).", None)
    spacing_mm: tuple[Positive, Positive, Positive] | None = key("Voxel size the network is conditioned on.", None)


class Published(Section):
    rectified: Rectified = key("Published weights of a rectified flow.")


class Diagnostics(Section):
    every: Count = key("Steps between two diagnostics (diagnostics.csv, dashboard); the last step has one, too.")
    nfe: Count = key("Network evaluations of the many-step samples that one-step samples are compared with.", 50)
    n: int = key("Samples per diagnostic.", 8, ge=2)
    n_validation: int = key("Validation participants of the posterior error; 0: none.", 16, ge=0)
    on_alarm: Literal["warn", "stop"] = key("Reaction to diverging losses or a noisy derivative.", "warn")


class Train(Section):
    steps: Count = key("Optimiser steps.")
    batch: Count = key("Latents per batch.")
    lr: Positive = key("Peak learning rate: linear warm-up, then half a cosine.")
    precision: Literal["32-true", "bf16-mixed"] = key(
        "Precision; the derivative has its own, flow.derivative_precision."
    )
    ema_images: list[Positive] = key(
        "Half-lives of the weight averages in images; the first is sampled from, others are compared.", min_length=1
    )
    averages: Literal["device", "host"] = key(
        "Where weight averages beyond the first are stored: device, or host memory, which saves 4 bytes per weight of "
        "a GPU. The first is the teacher and stays on the device. host needs a training by one process.",
        "device",
    )
    checkpoint_activations: bool = key(
        "Compute activations again in the backward pass: less memory, about a third more time. Needs flow.derivative "
        "two_pass.",
        False,
    )
    checkpoint_every: Count = key("Steps between checkpoints; a killed run resumes from the last one.")
    diagnostics: Diagnostics = key("Diagnostics during training.")
    seed: Seed = key("Seed of initial weights, batches, times and noise.")
    participant_fraction: Annotated[float, Field(gt=0, le=1)] = key(
        "Fraction of the training participants; a smaller fraction is a subset of a larger one.", 1.0
    )
    use_augmented: bool = key("Train on mirrored and augmented versions, too.", True)
    lr_end: Fraction = key("Final learning rate as a fraction of the peak.", 0.15)
    warmup: int = key("Steps of linear warm-up.", 50, ge=0)
    weight_decay: NotNegative = key("Weight decay.", 0.0)
    muon_lr: Positive | None = key(
        "Peak learning rate of Muon for hidden matrices and convolutions, with AdamW and lr for the rest; null: AdamW "
        "for all.",
        None,
    )
    clip: Positive = key("Largest gradient norm.", 1.0)
    accumulate: Count = key("Batches per optimiser step.", 1)
    log_every: Count = key("Steps per row of history.csv.", 50)
    logger: Literal["csv", "wandb"] = key(
        "csv: history.csv alone; wandb: Weights & Biases, offline, too (pip install 'neuromf[wandb]').", "csv"
    )
    init_from: str | Published | None = key(
        "What training starts from. packaged: the generator inside neuromf (made by studies/generator.yaml), or the "
        "path of a model.pt or packed run: network, prior and latent statistics; rectified: published weights of a "
        "rectified flow, with prediction u (sign and time are converted); null: random weights.",
        path=True,
    )


class Samples(Section):
    n: int = key("Volumes per number of network evaluations, all from the same noise.", ge=4)
    nfe: list[Count] = key("Numbers of network evaluations; must hold 1 and something larger.")
    sampler: Literal["meanflow", "euler"] = key(
        "meanflow: steps of the average velocity; euler: of the instantaneous u(z, t, t), Rectified Flow."
    )
    batch: Count = key("Latents per batch; samples do not depend on it.")
    precision: Literal["float32", "bf16"] = key("Precision of decoding; the error of bf16 is about 2 %.")
    seed: Seed = key("Seed of the noise: sample k of a seed is the same volume in any batch.", 0)
    timed_seconds: Positive = key("Seconds for which each part of the generation is timed.", 4)

    @model_validator(mode="after")
    def check_one_step(self) -> "Samples":
        if 1 not in self.nfe:
            raise ValueError(f"samples.nfe must hold 1; got {self.nfe}")
        return self


class ToyArm(Section):
    prediction: Literal["u", "x"] = key("Output of the network.")
    dim: int = key("Dimension that the torus is embedded in.", ge=4)


class Toy(Section):
    arms: list[ToyArm] = key("Runs on the torus; the last is the one of figure 2 and of the gate.")
    n_steps: Count = key("Training steps.")
    batch: Count = key("Points per batch.", 256)
    width: Count = key("Width of the MLP.", 128)
    depth: Count = key("Residual blocks of the MLP.", 2)
    lr: Positive = key("Learning rate.", 4e-3)
    tangent: Literal["conditional", "predicted"] = key("As flow.tangent.", "predicted")
    nfe: list[Count] = key("Numbers of network evaluations; must hold 1 and 5.", [1, 2, 5, 10])
    halflife_steps: Positive = key("Half-life of the weight average in steps.", 100)
    fraction_r_equals_t: Fraction = key("Fraction of flow-matching pairs, r = t.", 0.25)
    fraction_corner: Fraction = key("Fraction of pairs with t > 0.9 and r < 0.1.", 0.1)
    n_samples: Count = key("Samples per number of network evaluations.", 1000)
    seed: Seed = key("Seed of the toy.", 0)

    @model_validator(mode="after")
    def check_nfe(self) -> "Toy":
        if missing := {1, 5} - set(self.nfe):
            raise ValueError(f"toy.nfe must hold 1 and 5, which its gate compares; {sorted(missing)} missing")
        return self


class Arms(Section):
    arms: dict[RunName, Overrides] = key(
        "Arms by name, each with what it changes of net, flow, train and samples.", min_length=1
    )
    seeds: list[Seed] = key("Seeds of every arm.", [0], min_length=1)


class Metric(Section):
    metric: str = key("Name of a metric.")
    features: str = key("Feature set of a distance; empty for other metrics.", "")


class Similarity(Metric):
    goal: Literal["higher", "test"] = key("Better is higher, or as near as possible to test participants.", "higher")


class Statistics(Section):
    distance: Metric = key(
        "Distance that arms are compared by; lower is better.", Metric(metric="frechet", features="encoder-512")
    )
    similarity: Similarity = key(
        "Similarity that arms are compared by.", Similarity(metric="pair_ms_ssim", goal="test")
    )
    margin: Positive = key("Equivalence margin, as a fraction of the first arm's distance.", 0.1)


class Ablations(Section):
    run: list[RunName] = key("Ablations that are run beside the main run.")
    defaults: Overrides | None = key("What all arms change first, such as shorter runs; null: nothing.")
    arms: dict[RunName, Arms] = key("Ablations by name; arms with equal settings are one run.")
    statistics: Statistics = key("What arms are compared by.", Statistics())
    published: str | None = key("Table of published values for figure 4: model, nfe, value, source.", None, path=True)

    @model_validator(mode="after")
    def check_run(self) -> "Ablations":
        if unknown := set(self.run) - set(self.arms):
            raise ValueError(f"run names {sorted(unknown)}; allowed are the ablations of arms: {sorted(self.arms)}")
        return self


class MeanFlow(Section):
    net: Net = key("MONAI's diffusion UNet with two raw-time embeddings.")
    flow: Flow = key("What the network predicts, and the loss.")
    train: Train = key("Training.")
    samples: Samples = key("Generated volumes.")
    toy: Toy = key("The torus, whose distribution is known.")
    ablations: Ablations = key("Ablation studies.")

    @model_validator(mode="after")
    def check_channels(self) -> "MeanFlow":
        for name in ("p", "channel_weights"):
            values = getattr(self.flow, name)
            if isinstance(values, list) and len(values) != 4:
                raise ValueError(f"flow.{name} must have one entry per latent channel (4); got {values}")
        return self

    @model_validator(mode="after")
    def check_checkpoints(self) -> "MeanFlow":
        if self.train.checkpoint_activations and self.flow.derivative != "two_pass":
            raise ValueError(
                "train.checkpoint_activations needs flow.derivative two_pass, since a derivative in forward mode "
                f"cannot be computed again; got {self.flow.derivative}"
            )
        return self

    @model_validator(mode="after")
    def check_start(self) -> "MeanFlow":
        if isinstance(self.train.init_from, Published) and self.flow.prediction != "u":
            raise ValueError("train.init_from.rectified is a velocity, so flow.prediction must be u; got x")
        return self
