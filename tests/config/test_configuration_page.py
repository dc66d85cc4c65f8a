"""The generated reference of config keys is up to date."""

from pathlib import Path

from tools import configuration

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_and_the_schema_are_those_of_the_models():
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == configuration.page(), "run make config"
    assert (DOCS / "config.schema.json").read_text(encoding="utf-8") == configuration.schema(), "run make config"


def test_every_key_of_config_yaml_is_in_the_reference():
    page = configuration.page()
    for key in ("meanflow.train", "lesions.prior", "autoencoder", "cohort.split"):
        assert f"## `{key}`" in page
    assert "| `lr` | number | `3e-05` | Peak learning rate" in page
