"""The shape of config.yaml: what a study may say. Checked before any job; unknown keys are refused.

Every key is explained in config.yaml, where it stands; here are its type, its bounds and its default.
Only the Snakefile reads this; library functions take plain values.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Law = tuple[float, Positive]
Seed = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(pattern="^[A-Za-z0-9]+$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Cell = str | int | float | bool | None
Variation = Literal[
    "age_years", "lobes_mm", "gyri_mm", "folds_mm", "head_mm", "scale", "rotation_deg", "ventricles_mm", "tissue_bias",
    "contrast", "bias_field", "noise",
]  # fmt: skip  # of neuromf.phantom, whose fields a test compares with these


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Embedded(Section):
    n_people: int = Field(320, ge=8)
    seed: Seed = 0
    shape: tuple[Count, Count, Count] = (128, 128, 75)
    spacing_mm: tuple[Positive, Positive, Positive] = (1.875, 1.875, 2.4)
    variation: dict[Variation, float | tuple[float, float]] = {}


class Folder(Section):
    root: str
    pattern: str = "**/*.nii.gz"
    scan_regex: str = "(?P<scan>.+)"
    participants: str | None = None
    columns: dict[Literal["person", "file", "sex", "age", "site"], str] = {}
    masks: str | None = None


class Bids(Section):
    root: str
    suffix: Label = "T1w"
    datatype: Label = "anat"
    participants: str | None = "participants.tsv"
    columns: dict[Literal["person", "sex", "age", "site"], str] = {}
    masks: str | None = None


class Table(Section):
    root: str
    scans: str
    columns: dict[Literal["file", "person", "dataset", "scan", "mask", "site", "sex", "age"], str]
    where: dict[str, Cell | Annotated[list[Cell], Field(min_length=1)]] = {}
    participants: str | None = None
    join: list[str] = []

    @model_validator(mode="after")
    def named(self) -> "Table":
        if absent := {"file", "person"} - self.columns.keys():
            raise ValueError(f"columns must name file and person; {', '.join(sorted(absent))} missing")
        if bool(self.participants) != bool(self.join):
            raise ValueError("participants and join go together: a second table, and the columns both tables share")
        return self


class Ixi(Section):
    folder: str = "data/ixi"
    t1: str = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/IXI-T1.tar"
    t1_sha256: Digest | None = None
    demographics: str = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/IXI.xls"
    demographics_sha256: Digest | None = None
    expected: Count = 581


class Split(Section):
    train: Share
    val: Share
    test: Share

    @model_validator(mode="after")
    def whole(self) -> "Split":
        if abs((total := self.train + self.val + self.test) - 1) > 1e-6:
            raise ValueError(f"shares of people must sum to 1; got {total:g}")
        return self


class Cohort(Section):
    source: Literal["embedded", "folder", "bids", "table", "ixi"] = "embedded"
    embedded: Embedded = Embedded()
    folder: Folder | None = None
    bids: Bids | None = None
    table: Table | None = None
    ixi: Ixi = Ixi()
    split: Split = Split(train=0.85, val=0.0, test=0.15)
    scans_per_shard: Count = 90

    @model_validator(mode="after")
    def sourced(self) -> "Cohort":
        if getattr(self, self.source) is None:
            least = "root, scans and columns" if self.source == "table" else "root"
            raise ValueError(f"source is {self.source}, so cohort.{self.source} must say at least {least}; got none")
        return self


class Volumes(Section):
    spacing_mm: Positive = 2.5
    shape: tuple[Count, Count, Count] = (64, 80, 64)
    percentiles: tuple[Annotated[float, Field(ge=0, lt=100)], Annotated[float, Field(gt=0, le=100)]] = (0.0, 99.5)
    bias_field: Literal["none", "n4"] = "none"
    strip: Literal["none", "synthstrip", "hd-bet"] = "none"
    strip_device: Literal["cpu", "cuda"] = "cpu"
    strip_timeout_s: Positive = 1800

    @model_validator(mode="after")
    def windowed(self) -> "Volumes":
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"volumes.percentiles must be low < high; got {self.percentiles}")
        return self

    @model_validator(mode="after")
    def encodable(self) -> "Volumes":
        if any(n % 4 for n in self.shape):
            raise ValueError(f"volumes.shape must be multiples of 4, the autoencoder's downsampling; got {self.shape}")
        return self


class Licence(Section):
    name: str
    address: str
    forbids: str


class VAE(Section):
    architecture: Literal["compact", "published"] = "compact"
    weights: str | None = "packaged"
    sha256: Digest | None = None
    url: str | None = None
    licence: Licence | None = None
    lpips: str | None = None
    steps: int = Field(0, ge=0)
    batch: Count = 2
    lr: Positive = 2e-3
    kl_weight: float = Field(1e-5, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"

    @model_validator(mode="after")
    def trained(self) -> "VAE":
        if self.weights is None and self.steps == 0:
            raise ValueError("vae.weights is null, so vae.steps must say how long to train; got 0")
        return self

    @model_validator(mode="after")
    def licensed(self) -> "VAE":
        if self.url and (self.licence is None or self.weights in (None, "packaged")):
            raise ValueError("vae.url needs vae.licence, shown before it is fetched, and a path in vae.weights")
        return self


class Latents(Section):
    mirror: bool = True
    copies: int = Field(0, ge=0)
    augmentation: dict[
        Literal["rotation_deg", "scale", "shift_mm", "gamma", "intensity"], Annotated[float, Field(ge=0)]
    ] = {}
    precision: Literal["float32", "bf16"] = "float32"
    n_validated: Count = 5


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
    share_r_equals_t: Share
    share_corner: Share
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
    t_law: Law = (-0.6, 1.6)
    r_law: Law | None = (-4.0, 1.6)
    share_r_equals_t: Share = 0.5
    share_corner: Share = 0.0
    share_uniform: Share = 0.0

    @model_validator(mode="after")
    def shared(self) -> "Times":
        if self.share_r_equals_t + self.share_corner + self.share_uniform > 1:
            raise ValueError("share_r_equals_t, share_corner and share_uniform must sum to at most 1")
        return self


class Flow(Section):
    prediction: Literal["u", "x"] = "x"
    base_axes: int = Field(0, ge=0)
    tangent: Literal["conditional", "predicted", "head"] = "conditional"
    derivative: Literal["joint", "lean", "differences"] = "joint"
    p: Positive | list[Positive] = 2.0
    channel_weights: list[Positive] | None = None
    adaptive_power: float = Field(1.0, ge=0)
    adaptive_c: Positive = 0.01
    adaptive_over: Literal["sum", "mean"] = "sum"
    fm_steps: int = Field(0, ge=0)
    gap_steps: int = Field(0, ge=0)
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


class Features(Section):
    name: Literal["encoder", "radimagenet", "r3d18", "inception", "med3d"]
    weights: str | None = None
    sha256: Digest | None = None
    n: Count | None = None

    @model_validator(mode="after")
    def found(self) -> "Features":
        if (self.name == "encoder") == bool(self.weights):
            raise ValueError(f"features {self.name}: weights are a path for published networks, and none for encoder")
        return self


class Metrics(Section):
    features: list[Features] = Field([Features(name="encoder")], min_length=1)
    segmentation: Literal["atlas", "synthseg"] = "atlas"
    n_pairs: Count = 24
    n_anatomy: Count = 24
    n_boot: int = Field(200, ge=2)


class Measured(Section):
    metric: str
    features: str = ""


class Similarity(Measured):
    goal: Literal["higher", "real"] = "higher"


class Questions(Section):
    distance: Measured = Measured(metric="frechet", features="encoder-512")
    similarity: Similarity = Similarity(metric="pair_ms_ssim", goal="real")
    margin: Positive = 0.1
    quoted: str | None = None


class Gate(Section):
    bounds: dict[str, float]
    informational: list[str] = []

    @model_validator(mode="after")
    def known(self) -> "Gate":
        if unknown := set(self.informational) - set(self.bounds):
            raise ValueError(f"gates.informational names {sorted(unknown)}, which gates.bounds does not know")
        return self


Overrides = dict[Literal["net", "flow", "train", "samples"], dict[str, Any]]
RunName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
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
    every_arm: Overrides = {}
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


def _explain(error: dict) -> str:
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        section = Config
        for part in place[:-1]:
            section = _section(section, part)
        allowed = ", ".join(sorted(section.model_fields))
        return f"  {'.'.join(place)}: unknown key; allowed here: {allowed}"
    found = "" if error["type"] in ("value_error", "missing") else f"; found {error['input']!r}"
    return f"  {'.'.join(place) or 'config'}: {error['msg'].removeprefix('Value error, ')}{found}"


def _section(section: type[BaseModel], part: str) -> type[BaseModel]:
    """The section that a key of a section holds; list positions lead to the type of the items."""
    if part.isdigit():
        return section
    kind = section.model_fields[part].annotation
    inner = [kind, *getattr(kind, "__args__", ())]
    return next(k for k in inner if isinstance(k, type) and issubclass(k, BaseModel))
