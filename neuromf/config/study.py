"""The config of a study as typed values; checked before any job, unknown keys are refused.

`config.yaml` holds the keys that people change, with the values of the default study. Other keys have a default here.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from neuromf.config.atlas import Atlas
from neuromf.config.autoencoder import Autoencoder, Latents
from neuromf.config.cohort import Cohort
from neuromf.config.evaluation import Evaluation, Gates, Projection
from neuromf.config.growth import Growth
from neuromf.config.lesions import Lesions
from neuromf.config.meanflow import MeanFlow
from neuromf.config.types import Section, Seed, key
from neuromf.config.volumes import Volumes

BASE = "meanflow"  # the run of the config as it stands


class Config(Section):
    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = key(
        "Name of the study, written into gates and figures."
    )
    seed: Seed = key("Seed of splits, bootstrap and everything without a seed of its own.")
    systems: list[Literal["meanflow", "lesions"]] = key("What the target `all` builds.", min_length=1)
    cohort: Cohort = key("Scans and participants.")
    volumes: Volumes = key("The grid of the study.")
    autoencoder: Autoencoder = key("The frozen autoencoder.")
    latents: Latents = key("Encoding.")
    meanflow: MeanFlow = key("The MeanFlow model.")
    evaluation: Evaluation = key("Metrics.")
    lesions: Lesions = key("Image-mask pairs of a rare pathology.")
    growth: Growth = key("Tumour growth from MRI with four contrasts.")
    atlas: Atlas = key("Atlas of human brain function from coordinate tables.")
    gates: Gates = key("Gates between phases.")
    projection: Projection = key("The study that results/scale.md projects the costs of.", Projection())

    @model_validator(mode="after")
    def check_shape(self) -> "Config":
        net = self.meanflow.net
        stride = 4 * net.patch * 2 ** (len(net.widths) - 1)
        if any(n % stride for n in self.volumes.shape):
            raise ValueError(
                f"volumes.shape must be multiples of {stride} (4 of the autoencoder x net.patch {net.patch} x "
                f"{2 ** (len(net.widths) - 1)} of net.widths); got {self.volumes.shape}"
            )
        return self

    @model_validator(mode="after")
    def check_prior(self) -> "Config":
        n = self.meanflow.flow.prior.n_candidates
        if n > 1 and not self.cohort.split.val and self.meanflow.flow.prediction == "x":
            raise ValueError(
                f"meanflow.flow.prior has {n} candidates, which are compared on validation participants: set "
                "cohort.split.val above 0, or give one value each of axes, block and shrinkage"
            )
        return self

    @model_validator(mode="after")
    def check_packaged(self) -> "Config":
        """The packaged generator is of one grid and one autoencoder."""
        if self.meanflow.train.init_from != "packaged":
            return self
        found = {
            "volumes.spacing_mm": (self.volumes.spacing_mm, 2.5),
            "volumes.shape": (self.volumes.shape, (64, 80, 64)),
            "autoencoder.weights": (self.autoencoder.weights, "packaged"),
            "autoencoder.steps": (self.autoencoder.steps, 0),
        }
        if wrong := [f"{name} {needed} (got {value})" for name, (value, needed) in found.items() if value != needed]:
            raise ValueError(f"meanflow.train.init_from packaged needs {', '.join(wrong)}; otherwise set it to null")
        return self

    @model_validator(mode="after")
    def check_systems(self) -> "Config":
        if "meanflow" not in self.systems:
            raise ValueError(f"systems must hold meanflow, which lesions starts from; got {self.systems}")
        return self


def read_config(config: dict) -> Config:
    """The study as typed values.

    Raises:
        SystemExit: With one line for each wrong key: its name, what is allowed and what was found.
    """
    try:
        return Config.model_validate(config)
    except ValidationError as error:
        raise SystemExit(
            "\n".join(["config refused, nothing was run:", *(explain(row, Config) for row in error.errors())])
        ) from None


def explain(error: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One line for an error of pydantic in a section: the key, what is allowed, what was found."""
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        section = root
        for part in place[:-1]:
            section = _section(section, part)
        allowed = ", ".join(sorted(section.model_fields))
        return f"  {'.'.join(place)}: unknown key; allowed here: {allowed}"
    found = "" if error["type"] in ("value_error", "missing") else f"; found {error['input']!r}"
    return f"  {'.'.join(place) or 'config'}: {error['msg'].removeprefix('Value error, ')}{found}"


def _section(section: type[BaseModel], part: str) -> type[BaseModel]:
    """The section under a key; positions in lists and names in dicts leave the section as it is."""
    field = section.model_fields.get(part)
    return next(sections_of(field.annotation), section) if field else section


def sections_of(kind: object) -> Iterator[type[BaseModel]]:
    """Sections that a type is, or is made of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in getattr(kind, "__args__", ()):
        yield from sections_of(inner)
