"""The shape of config.yaml: what a study may say. Checked before any job; unknown keys are refused.

Every key is explained in config.yaml, where it stands; here are its type, its bounds and its default.
Only the Snakefile reads this; library functions take plain values.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from neuromf.config.data import VAE, Cohort, Latents, Volumes
from neuromf.config.evaluation import Gate, Metrics, Questions, Scale
from neuromf.config.lesions import Fcd
from neuromf.config.meanflow import Flow, Net, Samples, Torus, Train
from neuromf.config.types import RunName, Section, Seed

Overrides = dict[Literal["net", "flow", "train", "samples"], dict[str, Any]]
BASE = "meanflow"  # the run of the config as it stands


class Ablation(Section):
    arms: dict[RunName, Overrides] = Field(min_length=1)
    seeds: list[Seed] = Field([0], min_length=1)


class Config(Section):
    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    seed: Seed = 0
    cohort: Cohort
    volumes: Volumes
    vae: VAE
    latents: Latents
    torus: Torus
    net: Net
    flow: Flow
    train: Train
    samples: Samples
    metrics: Metrics
    gates: Gate
    questions: Questions = Questions()
    fcd: Fcd = Fcd()
    scale: Scale = Scale()
    every_arm: Overrides | None = None
    ablations: dict[RunName, Ablation] = {}
    active: list[RunName] = []

    @model_validator(mode="after")
    def named(self) -> "Config":
        if unknown := set(self.active) - set(self.ablations):
            raise ValueError(f"active names {sorted(unknown)}, which ablations does not hold: {sorted(self.ablations)}")
        return self

    @model_validator(mode="after")
    def per_channel(self) -> "Config":
        for name in ("p", "channel_weights"):
            values = getattr(self.flow, name)
            if isinstance(values, list) and len(values) != 4:
                raise ValueError(f"flow.{name} must have one entry per latent channel (4); got {values}")
        return self

    @model_validator(mode="after")
    def startable(self) -> "Config":
        if self.train.start and self.flow.prediction != "u":
            raise ValueError("train.start holds weights of a velocity, so flow.prediction must be u; got x")
        return self

    @model_validator(mode="after")
    def fits(self) -> "Config":
        stride = 4 * self.net.patch * 2 ** (len(self.net.widths) - 1)
        if any(n % stride for n in self.volumes.shape):
            raise ValueError(
                f"volumes.shape must be multiples of {stride} (4 of the autoencoder x net.patch {self.net.patch} x "
                f"{2 ** (len(self.net.widths) - 1)} of net.widths); got {self.volumes.shape}"
            )
        return self


def read_config(config: dict) -> Config:
    """The study as typed values.

    Raises:
        SystemExit: With one line for each wrong key: its name, what is allowed and what was found.
    """
    try:
        return Config.model_validate(config)
    except ValidationError as error:
        raise SystemExit("\n".join(["config refused, nothing was run:", *map(_explain, error.errors())])) from None


def _explain(error: Mapping[str, Any]) -> str:
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        section: type[BaseModel] = Config
        for part in place[:-1]:
            section = _section(section, part)
        allowed = ", ".join(sorted(section.model_fields))
        return f"  {'.'.join(place)}: unknown key; allowed here: {allowed}"
    found = "" if error["type"] in ("value_error", "missing") else f"; found {error['input']!r}"
    return f"  {'.'.join(place) or 'config'}: {error['msg'].removeprefix('Value error, ')}{found}"


def _section(section: type[BaseModel], part: str) -> type[BaseModel]:
    """The section that a key of a section holds; positions in lists and names in dicts stay where they are."""
    field = section.model_fields.get(part)
    return next(_models(field.annotation), section) if field else section


def _models(kind: object) -> Iterator[type[BaseModel]]:
    """Sections that a type is, or is made of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in getattr(kind, "__args__", ()):
        yield from _models(inner)
