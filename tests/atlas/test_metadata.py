"""Metadata vector: sources, encoding, missing values, hidden fields, modality flags."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from atlas.atlas_helpers import SPACE

from neuromf.atlas.cleaning import clean_tables
from neuromf.atlas.metadata import (
    SOURCES,
    Field,
    Schema,
    encode,
    encode_values,
    fit_schema,
    hide_fields,
    modality_flags,
)
from neuromf.data.brain_grid import brain_grid
from neuromf.data.neurostore import read_neurostore


@pytest.fixture(scope="module")
def schema(mock_studies):
    return fit_schema(mock_studies.take(mock_studies.rows("train")))


def test_A12_every_field_has_a_source_and_none_is_invented(schema):
    assert [field.name for field in schema.fields] == [
        "year", "log_n_foci", "log_n_tables", "space", "journal", "pet", "resting", "vbm", "connectivity", "topics",
    ]  # fmt: skip
    assert all(field.source == SOURCES[field.name] for field in schema.fields)
    for name in ("field_strength", "n_subjects", "sign"):
        with pytest.raises(ValueError, match=f"fields {name} have no documented source"):
            Schema((Field(name, "continuous", "guessed", (name,)),))


def test_A12_only_the_extract_has_a_sample_size(mock_studies):
    studies, _ = clean_tables(read_neurostore(), brain_grid("2mm"), scale="neurostore", space=SPACE, min_foci=1)
    schema = fit_schema(studies.take(range(0, len(studies), 2)))
    values, observed = encode(studies, schema)
    where = schema.position("log_n_subjects")
    assert np.array_equal(observed[:, where.start], studies.table["n_subjects"].notna())
    known = studies.table["n_subjects"].notna().to_numpy()
    back = np.exp(values[known, where.start] * schema.fields[3].std + schema.fields[3].mean)
    assert np.allclose(back, studies.table["n_subjects"][known], rtol=1e-3)
    assert not observed[:, schema.position("year")].any()
    with pytest.raises(ValueError, match="n_subjects: scale mock has no source"):
        replace(mock_studies, table=mock_studies.table.assign(n_subjects=17))


def test_the_vector_is_z_scored_one_hot_and_marked(schema, mock_studies):
    values, observed = encode(mock_studies, schema)
    assert values.shape == observed.shape == (len(mock_studies), schema.width) and values.dtype == np.float32
    train = values[mock_studies.rows("train")]
    for name in ("year", "log_n_foci", "log_n_tables"):
        column = train[:, schema.position(name)]
        assert abs(column.mean()) < 1e-5 and abs(column.std() - 1) < 1e-5
    journal = values[:, schema.position("journal")]
    assert np.array_equal(journal.sum(1), np.ones(len(values)))
    space, known = values[:, schema.position("space")], observed[:, schema.position("space")]
    unknown = mock_studies.table["space"].to_numpy() == "UNKNOWN"
    assert not known[unknown].any() and known[~unknown].all() and not space[unknown].any()
    assert np.allclose(values[:, schema.position("topics")], mock_studies.topics)
    assert not values[~observed].any()


def test_the_schema_is_json_and_names_every_entry(schema):
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema and len(schema.names) == schema.width
    assert schema.names[schema.position("space")] == ("space:MNI", "space:TAL")
    with pytest.raises(ValueError, match="no field 'age'; the schema has year"):
        schema.position("age")


def test_given_values_are_encoded_as_those_of_a_study(schema, mock_studies):
    values, observed = encode(mock_studies, schema)
    row = mock_studies.table.iloc[8]
    names = ("year", "n_foci", "n_tables", "space", "journal", "pet", "resting", "vbm", "connectivity")
    vector, known = encode_values(schema, topics=mock_studies.topics[8], **{name: row[name] for name in names})
    assert np.allclose(vector, values[8], atol=1e-6) and np.array_equal(known, observed[8])
    vector, known = encode_values(schema)
    assert not vector.any() and not known.any()
    vector, known = encode_values(schema, year=2010, journal="Unknown journal")
    assert known[schema.position("year")].all() and vector[schema.position("journal")][-1] == 1
    with pytest.raises(ValueError, match="unknown metadata age; allowed are"):
        encode_values(schema, age=3)


def test_hidden_entries_are_whole_observed_fields(schema, mock_studies):
    _, observed = encode(mock_studies, schema)
    hidden = hide_fields(observed, schema, 0.3, np.random.default_rng(0))
    assert not (hidden & ~observed).any()
    topics = hidden[:, schema.position("topics")]
    assert np.array_equal(topics.all(1), topics.any(1)) and abs(hidden[observed].mean() - 0.3) < 0.1
    assert np.array_equal(hidden, hide_fields(observed, schema, 0.3, np.random.default_rng(0)))


def test_modalities_are_read_from_titles():
    titles = pd.Series(["A PET study of pain", "Resting-state functional connectivity", "Petrol and the brain",
                        "Voxel-based morphometry of grey matter", "Forest walks"])  # fmt: skip
    flags = modality_flags(titles)
    assert flags["pet"].tolist() == [1, 0, 0, 0, 0] and flags["resting"].tolist() == [0, 1, 0, 0, 0]
    assert flags["connectivity"].tolist() == [0, 1, 0, 0, 0] and flags["vbm"].tolist() == [0, 0, 0, 1, 0]
