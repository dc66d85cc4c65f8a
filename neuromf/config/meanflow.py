"""Sections about the flow: the torus, the network, what it regresses, its training and its samples."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neuromf.config.types import Count, Digest, Law, Positive, Section, Seed, Share


class Arm(Section):
    prediction: Literal["u", "x"]
    dim: int = Field(ge=4)


class Torus(Section):
    arms: list[Arm]
    tangent: Literal["conditional", "predicted"] = "predicted"
    evaluations: list[Count]
    n_steps: Count
    batch: Count
    width: Count
    depth: Count
    lr: Positive
    fraction_r_equals_t: Share
    fraction_corner: Share
    halflife_steps: Positive
    n_samples: Count
    seed: Seed = 0

    @model_validator(mode="after")
    def gated(self) -> "Torus":
        if missing := {1, 5} - set(self.evaluations):
            raise ValueError(f"torus.evaluations must hold 1 and 5, which its gate compares; {sorted(missing)} missing")
        return self


class Net(Section):
    widths: list[Count]
    res_blocks: Count
    attention: list[bool]
    head_width: Count = 32
    norm_groups: Count = 16
    patch: Count = 1
    conditioning: Literal["t-h", "t-r", "h"] = "t-h"

    @model_validator(mode="after")
    def matched(self) -> "Net":
        if len(self.widths) != len(self.attention):
            raise ValueError(f"net.attention must have one entry per width; got {self.attention} for {self.widths}")
        if odd := [w for w in self.widths if w % self.norm_groups]:
            raise ValueError(f"net.widths must be multiples of norm_groups {self.norm_groups}; got {odd}")
        return self


class Times(Section):
    t_logit_normal: Law = (-0.6, 1.6)
    r_logit_normal: Law | None = (-4.0, 1.6)
    fraction_r_equals_t: Share = 0.5
    fraction_corner: Share = 0.0
    fraction_uniform: Share = 0.0

    @model_validator(mode="after")
    def shared(self) -> "Times":
        if self.fraction_r_equals_t + self.fraction_corner + self.fraction_uniform > 1:
            raise ValueError("fraction_r_equals_t, fraction_corner and fraction_uniform must sum to at most 1")
        return self


class Flow(Section):
    prediction: Literal["u", "x"] = "x"
    prior_axes: int = Field(0, ge=0)
    tangent: Literal["conditional", "predicted", "head"] = "conditional"
    target: Literal["conditional", "predicted"] = "conditional"
    derivative: Literal["joint", "lean", "differences"] = "joint"
    p: Positive | list[Positive] = 2.0
    channel_weights: list[Positive] | None = None
    adaptive_power: float = Field(1.0, ge=0)
    adaptive_c: Positive = 0.01
    adaptive_over: Literal["sum", "mean"] = "sum"
    flow_matching_steps: int = Field(0, ge=0)
    interval_warmup_steps: int = Field(0, ge=0)
    times: Times = Times()


class Start(Section):
    weights: str
    sha256: Digest | None = None
    modality: int | None = None
    spacing_mm: tuple[Positive, Positive, Positive] | None = None


class Diagnostics(Section):
    every: Count = 200
    evaluations: Count = 50
    n: int = Field(8, ge=2)
    on_alarm: Literal["warn", "stop"] = "warn"


class Train(Section):
    people: Annotated[float, Field(gt=0, le=1)] = 1.0
    copies: bool = True
    steps: Count
    batch: Count
    lr: Positive
    lr_end: Share = 0.0
    warmup: int = Field(50, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: Positive = 1.0
    accumulate: Count = 1
    ema_images: list[Positive] = Field([4000.0], min_length=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    log_every: Count = 50
    checkpoint_every: Count = 200
    diagnostics: Diagnostics = Diagnostics()
    start: Start | None = None
    seed: Seed = 0


class Samples(Section):
    sampler: Literal["mean", "euler"] = "mean"  # Heun cannot make a sample in one evaluation
    n: int = Field(64, ge=4)
    evaluations: list[Count] = [1, 2, 10, 50]
    batch: Count = 16
    dtype: Literal["int16", "float32"] = "int16"
    precision: Literal["float32", "bf16"] = "float32"
    timed_seconds: Positive = 10.0
    seed: Seed = 0

    @model_validator(mode="after")
    def one_step(self) -> "Samples":
        if 1 not in self.evaluations:
            raise ValueError(f"samples.evaluations must hold 1; got {self.evaluations}")
        return self
