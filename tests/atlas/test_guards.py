"""Guards: scales never mix, stage 4 and releases refuse development data, licences are stated."""

import pytest

from neuromf.atlas.guards import (
    common_scale,
    kind,
    require_licence,
    require_release,
    require_reportable,
    require_stage,
    statement,
)


def test_A79_a_subset_checkpoint_is_refused_in_stage_4():
    with pytest.raises(ValueError, match="stage 4 accepts no subset_1k artefact; runs/cvae is one"):
        require_stage("subset_1k", 4, "runs/cvae")
    for scale, stage in (("subset_1k", 3), ("full", 4), ("mock", 4)):
        require_stage(scale, stage, "runs/cvae")
    assert [kind(scale) for scale in ("mock", "subset_1k", "full")] == ["development", "development", "production"]


def test_A76_a_table_without_scale_or_provenance_or_of_mock_data_is_refused():
    good = {"scale": "full", "manifest": "ab", "bits": -12.6}
    require_reportable([good], "bits.csv")
    for column in ("scale", "manifest"):
        with pytest.raises(ValueError, match=f"row 1 of bits.csv lacks {column}"):
            require_reportable([good, {**good, column: ""}], "bits.csv")
    with pytest.raises(ValueError, match="row 0 of bits.csv is of mock data"):
        require_reportable([{**good, "scale": "mock"}], "bits.csv")
    require_reportable([{**good, "scale": "mock"}], "bits_mock.csv")


def test_A02_scales_are_not_mixed_and_mock_is_stated():
    assert common_scale({"a": "full", "b": "full"}) == "full"
    with pytest.raises(ValueError, match="must not be mixed: a is full, b is mock"):
        common_scale({"a": "full", "b": "mock"})
    assert statement("mock").startswith("Mock data") and statement("full") == ""
    with pytest.raises(ValueError, match="scale must be one of"):
        statement("half")


def test_A76_a_release_refuses_mock_and_subset():
    require_release({"model": "full", "table": "full"})
    with pytest.raises(ValueError, match=r"refused are model \(mock\), table \(subset_1k\)"):
        require_release({"model": "mock", "table": "subset_1k"})


def test_A88_an_export_states_licence_and_attribution():
    good = {"source": "neurosynth", "licence": "ODbL 1.0", "attribution": "Neurosynth"}
    require_licence(good, "latents.csv")
    for change in ({"licence": ""}, {"attribution": ""}, {"licence": "CC0"}):
        with pytest.raises(ValueError, match="latents.csv is derived from Neurosynth"):
            require_licence({**good, **change}, "latents.csv")
    require_licence({"source": "mock"}, "latents.csv")
