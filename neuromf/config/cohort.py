"""Block `cohort`: which scans belong to the study, and how participants are split."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neuromf.config.types import Count, Digest, Fraction, Label, Positive, Section, Seed, WithoutNull, key

Cell = str | int | float | bool | None
Variation = Literal[
    "age_years", "lobes_mm", "gyri_mm", "folds_mm", "head_mm", "scale", "rotation_deg", "ventricles_mm", "tissue_bias",
    "contrast", "bias_field", "noise",
]  # fmt: skip  # fields of neuromf.simulation.brains.Variation; a test compares both
IXI_URL = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI"


class Embedded(Section):
    n_participants: int = key("Number of simulated participants.", ge=8)
    seed: Seed = key("Seed of the simulation: participant k of a seed is the same in any cohort.")
    shape: tuple[Count, Count, Count] = key("Voxels of the simulated scanner along P, S and R.", (128, 128, 75))
    spacing_mm: tuple[Positive, Positive, Positive] = key(
        "Voxel size of the simulated scanner in mm: the field of view of IXI at half its resolution.",
        (1.875, 1.875, 2.4),
    )
    variation: dict[Variation, float | tuple[float, float]] = key(
        "Standard deviations by which participants differ, by name; see Variation in neuromf/simulation/brains.py.", {}
    )


class Folder(Section):
    root: str = key("Folder of the scans.", path=True)
    pattern: str = key("Glob pattern of scans below root.", "**/*.nii.gz")
    scan_regex: str = key(
        "Regular expression that matches a file name, with the groups scan, participant and site.", "(?P<scan>.+)"
    )
    participants: str | None = key("Table below root with participant_id or file, sex, age, site.", None)
    columns: Annotated[dict[Literal["participant", "file", "sex", "age", "site"], str], WithoutNull] = key(
        "Names of the columns in that table, where they differ.", {}
    )
    masks: str | None = key("Template of brain masks below root, such as masks/{scan}.nii.gz.", None)


class Bids(Section):
    root: str = key("BIDS folder.", path=True)
    suffix: Label = key("BIDS suffix of the scans.", "T1w")
    datatype: Label = key("BIDS datatype of the scans.", "anat")
    participants: str | None = key("Table of participants below root.", "participants.tsv")
    columns: Annotated[dict[Literal["participant", "sex", "age", "site"], str], WithoutNull] = key(
        "Names of the columns in that table, where they differ.", {}
    )
    masks: str | None = key("Template of brain masks below root.", None)


class Table(Section):
    root: str = key("Folder that all paths are relative to.", path=True)
    scans: str = key("Table below root with one row per scan.")
    columns: Annotated[
        dict[Literal["file", "participant", "dataset", "scan", "mask", "site", "sex", "age"], str], WithoutNull
    ] = key("Column of the table, or a template of columns, for each of our names; file and participant are required.")
    where: dict[str, Cell | Annotated[list[Cell], Field(min_length=1)]] = key(
        "Rows to include, by value: one value, or a list of values, for each column.", {}
    )
    participants: str | None = key("A second table below root, with one row per participant or session.", None)
    join: list[str] = key("Columns that both tables share.", [])

    @model_validator(mode="after")
    def check_columns(self) -> "Table":
        if absent := {"file", "participant"} - self.columns.keys():
            raise ValueError(f"columns must name file and participant; {', '.join(sorted(absent))} missing")
        if bool(self.participants) != bool(self.join):
            raise ValueError("participants and join go together: a second table, and the columns both tables share")
        return self


class Ixi(Section):
    folder: str = key("Folder of IXI: T1/IXI*-T1.nii.gz and participants.tsv.", "data/ixi", path=True)
    t1: str = key("Address of the archive of T1 scans.", f"{IXI_URL}/IXI-T1.tar")
    t1_sha256: Digest | None = key("Expected SHA-256 of that archive; null: not verified.", None)
    demographics: str = key("Address of the table of participants.", f"{IXI_URL}/IXI.xls")
    demographics_sha256: Digest | None = key("Expected SHA-256 of that table; null: not verified.", None)
    expected: Count = key("Scans in the archive: jobs are planned for them before it is downloaded.", 581)


class Split(Section):
    train: Fraction = key("Fraction of participants in training.")
    val: Fraction = key("Fraction of participants in validation.")
    test: Fraction = key("Fraction of participants in the test set.")

    @model_validator(mode="after")
    def check_sum(self) -> "Split":
        if abs((total := self.train + self.val + self.test) - 1) > 1e-6:
            raise ValueError(f"fractions of participants must sum to 1; got {total:g}")
        return self


class Cohort(Section):
    source: Literal["embedded", "folder", "bids", "table", "ixi"] = key(
        "Where scans come from. embedded: participants simulated from MNI152; ixi: the T1 scans of IXI, downloaded; "
        "folder, bids, table: your own scans."
    )
    split: Split = key("Fractions of participants per split; all scans of a participant are in one split.")
    scans_per_shard: Count = key("Scans handled by one job; models are loaded once per shard.")
    embedded: Embedded = key("Settings of source embedded.")
    folder: Folder | None = key("Settings of source folder.", None)
    bids: Bids | None = key("Settings of source bids.", None)
    table: Table | None = key("Settings of source table.", None)
    ixi: Ixi = key("Settings of source ixi.", Ixi())

    @model_validator(mode="after")
    def check_source(self) -> "Cohort":
        if getattr(self, self.source) is None:
            required = "root, scans and columns" if self.source == "table" else "root"
            raise ValueError(f"source is {self.source}, so cohort.{self.source} needs at least {required}; got none")
        return self
