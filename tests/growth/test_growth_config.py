"""Block `growth` of the config: scales, sources, refused values."""

import inspect

import pytest
from pydantic import ValidationError

from neuromf.config.growth import Growth
from neuromf.config.growth_data import PresetData
from neuromf.config.growth_model import Preset
from neuromf.config.study import read_config
from neuromf.data import multimodal
from neuromf.data.multimodal_loaders import build_loaders, prepare_index
from neuromf.data.multimodal_transforms import ImageSettings
from neuromf.simulation.tumour_cohort import simulate_cohort


def growth(base_config, **changed):
    return Growth.model_validate(base_config["growth"] | changed)


@pytest.mark.parametrize("scale", ["ci", "embedded", "bench", "paper"])
def test_values_of_every_scale_are_arguments_of_the_library(base_config, scale):
    block = growth(base_config, scale=scale)
    inspect.signature(simulate_cohort).bind(out="x", **block.simulated_cohort())
    inspect.signature(prepare_index).bind("x", root_dir="y", **block.index_values())
    overrides = block.overrides("/data")
    assert overrides["data"]["root_dir"] == "/data"
    for section, values in overrides.items():
        kind = Preset.model_fields[section].annotation
        assert values.keys() <= kind.model_fields.keys(), section


def test_keys_of_a_scale_are_overridden_by_those_of_the_config(base_config):
    block = growth(base_config, scale="ci", simulation={"n_patients": 5})
    assert (block.simulated_cohort()["n_patients"], block.simulated_cohort()["shape"]) == (5, 24)


def test_preset_keys_are_arguments_of_the_loaders_with_literal_defaults():
    parameters, literal = inspect.signature(build_loaders).parameters, ImageSettings()
    assert PresetData.model_fields.keys() <= parameters.keys()
    for name in ("nonzero", "pad_value", "train_margin"):
        defaults = {PresetData.model_fields[name].default, parameters[name].default, getattr(literal, name)}
        assert len(defaults) == 1, name
    assert PresetData.model_fields["modalities"].default == multimodal.MODALITIES == literal.modalities


def test_figures_of_simulated_data_say_so(base_config):
    assert growth(base_config).statement() == "Simulated growth in generated anatomy (MNI152)"
    assert growth(base_config, data={"source": "brats", "root": "/data", "anatomy": "embedded"}).statement() == ""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": {"source": "brats", "anatomy": "embedded"}}, "growth.data.root must name"),
        ({"data": {"source": "simulated", "anatomy": "ixi"}}, "growth.simulation.ixi_root must name"),
        ({"data": {"source": "simulated", "anatomy": "brain"}}, "'embedded', 'ixi' or 'phantom'"),
        ({"scale": "huge"}, "'ci', 'embedded', 'bench' or 'paper'"),
        ({"simulation": {"mass_effect": 0.9}}, "less than or equal to 0.5"),
    ],
)
def test_wrong_values_are_refused(base_config, changed, message):
    with pytest.raises(ValidationError, match=message):
        growth(base_config, **changed)


def test_an_unknown_key_is_refused_before_any_job(base_config):
    base_config["growth"]["sizes"] = 3
    with pytest.raises(SystemExit, match="growth.sizes: unknown key; allowed here: collapse, data, "):
        read_config(base_config)
