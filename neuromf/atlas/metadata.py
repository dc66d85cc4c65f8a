"""The metadata vector m of a study: fields with a documented source, their encoding, and which entries are observed.

No field is invented: a field is part of a schema only if its source has it. Unknown entries are 0 and not observed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from neuromf.atlas.studies import Studies

MODALITIES = {  # regular expressions of titles, without case
    "pet": r"\bpet\b|positron emission|\br?cbf\b|raclopride",
    "resting": r"\bresting\b|\brest\b|default[- ](?:mode|network)|spontaneous (?:activity|fluctuation)",
    "vbm": r"\bvbm\b|voxel[- ]based morphometr|gr[ae]y[- ]matter|white[- ]matter|cortical (?:thickness|volume)",
    "connectivity": r"connectivit|connectom|\bppi\b|psychophysiological interaction|\bdti\b|tractograph",
}
N_JOURNALS = 12  # groups: the most frequent ones of the training studies, and others
OTHER = "other"
SOURCES = {  # what each field is read from
    "year": "column year of the metadata table",
    "log_n_foci": "number of foci after cleaning",
    "log_n_tables": "number of tables with foci (table_id of the coordinates)",
    "log_n_subjects": "sample size of the NeuroStore extract; no other source has it",
    "space": "column space of the metadata table (automatic label); UNKNOWN is missing",
    "journal": "column journal of the metadata table",
    **{name: f"regular expression of the title: {pattern}" for name, pattern in MODALITIES.items()},
    "topics": "topic weights of the abstracts, as published",
}
CONTINUOUS = {"year": "year", "log_n_foci": "n_foci", "log_n_tables": "n_tables", "log_n_subjects": "n_subjects"}


@dataclass(frozen=True)
class Field:
    """One field of the metadata vector."""

    name: str
    kind: str  # continuous (z-scored), categorical (one-hot), flag (0 or 1) or topics (weights)
    source: str
    columns: tuple[str, ...]  # names of its entries: categories, topics, or the field itself
    mean: float = 0.0  # of the training studies, continuous fields alone
    std: float = 1.0


@dataclass(frozen=True)
class Schema:
    """Fields of the metadata vector in order; plain values, so that it is JSON."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        if invented := [field.name for field in self.fields if field.source != SOURCES.get(field.name)]:
            raise ValueError(
                f"fields {', '.join(invented)} have no documented source; allowed are {', '.join(SOURCES)}"
            )

    @property
    def width(self) -> int:
        """Number of entries d_m of the vector."""
        return sum(len(field.columns) for field in self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each entry: field, or field:category."""
        return tuple(
            field.name if field.columns == (field.name,) else f"{field.name}:{column}"
            for field in self.fields
            for column in field.columns
        )

    def position(self, name: str) -> slice:
        """Entries of a field in the vector."""
        start = 0
        for field in self.fields:
            if field.name == name:
                return slice(start, start + len(field.columns))
            start += len(field.columns)
        raise ValueError(f"no field {name!r}; the schema has {', '.join(field.name for field in self.fields)}")

    def to_json(self) -> dict[str, Any]:
        """The schema as JSON values."""
        return {"fields": [asdict(field) | {"columns": list(field.columns)} for field in self.fields]}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Schema":
        """The schema of `to_json`."""
        return Schema(tuple(Field(**{**row, "columns": tuple(row["columns"])}) for row in values["fields"]))


def modality_flags(titles: pd.Series) -> dict[str, NDArray[np.int64]]:
    """Flag 0 or 1 of each modality for titles, by regular expressions."""
    return {
        name: titles.str.contains(pattern, case=False, regex=True).to_numpy(int) for name, pattern in MODALITIES.items()
    }


def fit_schema(train: "Studies") -> Schema:
    """Schema with means, standard deviations and journal groups of the training studies.

    A field whose column the table lacks is left out.
    """
    table = train.table
    fields = [_continuous(name, table[column]) for name, column in CONTINUOUS.items() if column in table]
    fields.append(_field("space", "categorical", ("MNI", "TAL")))
    frequent = table["journal"].value_counts().index[: N_JOURNALS - 1]
    fields.append(_field("journal", "categorical", (*sorted(frequent), OTHER)))
    fields += [_field(name, "flag", (name,)) for name in MODALITIES]
    if train.topics.shape[1]:
        fields.append(_field("topics", "topics", train.topic_words))
    return Schema(tuple(fields))


def _field(name: str, kind: str, columns: tuple[str, ...], **moments: float) -> Field:
    return Field(name, kind, SOURCES[name], columns, **moments)


def _continuous(name: str, values: pd.Series) -> Field:
    numbers = _numbers(name, values)
    mean, std = float(np.nanmean(numbers)), float(np.nanstd(numbers))
    return _field(name, "continuous", (name,), mean=mean, std=std if std > 0 else 1.0)


def _numbers(name: str, values: Any) -> NDArray:  # noqa: ANN401  # a column or a number
    """Values of a continuous field as float64, on its scale; NaN if missing."""
    numbers = np.asarray(values, float)
    return np.log(numbers) if name.startswith("log_") else numbers


def encode(studies: "Studies", schema: Schema) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Metadata vectors of studies and which entries are observed, both of shape (n_studies, d_m)."""
    raw = {column: studies.table[column].to_numpy() for column in studies.table}
    return _encode({**raw, "topics": studies.topics}, len(studies), schema)


def encode_values(schema: Schema, **values: Any) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # noqa: ANN401
    """Metadata vector of given values, and which entries are observed, both of shape (d_m,).

    Arguments:
        values: Columns of the table of studies such as year, n_foci, space, journal or pet, and topics (n_topics,); all
            others are missing.
    """
    known = {*CONTINUOUS.values(), *(field.name for field in schema.fields if field.kind != "continuous")}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"unknown metadata {', '.join(unknown)}; allowed are {', '.join(sorted(known))}")
    vector, observed = _encode({name: np.asarray([value]) for name, value in values.items()}, 1, schema)
    return vector[0], observed[0]


def _encode(raw: Mapping[str, NDArray], n: int, schema: Schema) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    values, observed = np.zeros((n, schema.width), np.float32), np.zeros((n, schema.width), bool)
    for field in schema.fields:
        column = CONTINUOUS.get(field.name, field.name)
        if column in raw:
            where = schema.position(field.name)
            values[:, where], known = _encode_field(field, raw[column])
            observed[:, where] = known[:, None]
    return values, observed


def _encode_field(field: Field, raw: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
    """Entries (n, columns) of one field, 0 where missing, and which rows are known (n,)."""
    if field.kind == "continuous":
        scores = (_numbers(field.name, raw) - field.mean) / field.std
        return np.nan_to_num(scores)[:, None], np.isfinite(scores)
    if field.kind == "categorical":
        labels = raw.astype(str)
        labels = np.where(np.isin(labels, field.columns) | (OTHER not in field.columns), labels, OTHER)
        onehot = labels[:, None] == np.array(field.columns)
        return onehot, onehot.any(1)
    entries = np.asarray(raw, float).reshape(len(raw), len(field.columns))
    return np.nan_to_num(entries), np.isfinite(entries).all(1)


def hide_fields(
    observed: NDArray[np.bool_], schema: Schema, fraction: float, random: np.random.Generator
) -> NDArray[np.bool_]:
    """Observed entries (n, d_m) that the imputation head is trained to predict: whole fields, hidden at random."""
    hidden = np.zeros_like(observed)
    for field in schema.fields:
        where = schema.position(field.name)
        hidden[:, where] = random.random(len(observed))[:, None] < fraction
    return hidden & observed
