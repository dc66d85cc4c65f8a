"""What a study may say: every shipped config is read, and every wrong key is named with what would be right."""

import copy
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from snakemake.cli import parse_config
from snakemake.utils import update_config

from neuromf.config.lesions import Arm
from neuromf.config.study import Config, read_config, sections_of
from neuromf.config.types import Section
from neuromf.workflow.params import evaluation_settings

ROOT = Path(__file__).parents[2]
STUDIES = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("studies/*.yaml"), *ROOT.glob("tests/config/*.yaml")]
)


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


def default(*keys, value=None):
    """The default config as a dict, with one key set where asked."""
    config = copy.deepcopy(load("config.yaml"))
    place = config
    for key in keys[:-1]:
        place = place[key]
    if keys:
        place[keys[-1]] = value
    return config


def refusal(config):
    """Lines of the refusal after its first, which is always the same."""
    with pytest.raises(SystemExit) as error:
        read_config(config)
    first, *lines = str(error.value).splitlines()
    assert first == "config refused, nothing was run:"
    return lines


# --- shipped configs ---------------------------------------------------------------------------------


def from_command_line(*entries):
    """The study of IXI with `--config` entries on top, as Snakemake reads them: all values are text."""
    config = default()
    update_config(config, load("studies/ixi_2mm.yaml"))
    update_config(config, parse_config(entries))
    return config


def test_null_on_the_command_line_removes_masks_and_table():
    plain, without = (
        read_config(from_command_line(*entries)).cohort.folder
        for entries in ((), ("cohort={folder: {masks: null, participants: null, columns: {age: null, sex: SEX}}}",))
    )
    assert plain.masks and plain.participants == "participants.tsv"
    assert without.masks is without.participants is None and without.columns == {"sex": "SEX"}
    assert without.pattern == plain.pattern and without.root == plain.root


def test_null_in_a_further_file_removes_an_entry():
    config = from_command_line()
    update_config(config, {"cohort": {"folder": {"masks": None, "columns": {"age": "AGE", "sex": None}}}})
    folder = read_config(config).cohort.folder
    assert folder.masks is None and folder.columns == {"age": "AGE"}


def test_null_is_text_where_a_value_is_needed():
    (line,) = refusal(from_command_line("cohort={folder: {pattern: a}}", "seed=null"))
    assert line.startswith("  seed: ") and "'null'" in line
    assert read_config(from_command_line("cohort={folder: {pattern: null}}")).cohort.folder.pattern == "null"


def test_the_default_config_is_read():
    config = read_config(default())
    assert config.study == "embedded" and config.cohort.source == "embedded"
    assert config.volumes.shape == (64, 80, 64) and config.autoencoder.weights == "packaged"


def test_there_are_studies():
    assert {"studies/compact_vae.yaml", "studies/ixi_2mm.yaml", "studies/ixi.yaml", "studies/ixi_80gb.yaml"} <= set(
        STUDIES
    )


@pytest.mark.parametrize("path", STUDIES)
def test_every_study_is_read_on_top_of_the_default(path):
    merged = default()
    update_config(merged, load(path))
    config = read_config(merged)
    assert config.study == load(path).get("study", "embedded")


def test_checkpointed_activations_need_two_passes():
    config = default("meanflow", "train", "checkpoint_activations", value=True)
    [line] = refusal(config)
    assert "train.checkpoint_activations needs flow.derivative two_pass" in line and "got single_pass" in line
    config["meanflow"]["flow"]["derivative"] = "two_pass"
    assert read_config(config).meanflow.train.checkpoint_activations


def keys_of(section, values, place=""):
    """Every key that values hold of a section, with its field, however deep."""
    for name, value in values.items():
        field = section.model_fields[name]
        yield f"{place}{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys_of(field.annotation, value, f"{place}{name}.")


def test_a_default_stands_once():
    """Keys of config.yaml are required by the model; all other keys have their default there."""
    twice = [name for name, field in keys_of(Config, default()) if not field.is_required()]
    assert twice == []


def test_every_key_has_a_description():
    def undescribed(section, place=""):
        for name, field in section.model_fields.items():
            if not (field.description or section in (Arm,)):
                yield f"{place}{name}"
            for inner in sections_of(field.annotation):
                yield from undescribed(inner, f"{place}{name}.")

    assert list(undescribed(Config)) == []


def test_keys_that_a_study_does_not_set_keep_the_default():
    merged = default()
    update_config(merged, {"meanflow": {"samples": {"nfe": [1, 3]}}, "gates": {"bounds": {"P0-T5": 12.0}}})
    config = read_config(merged)
    assert config.meanflow.samples.nfe == [1, 3] and config.meanflow.samples.n == 40
    assert config.gates.bounds == {"P0-T5": 12.0}


# --- unknown keys ------------------------------------------------------------------------------------


def test_an_unknown_section_is_named_with_those_there_are():
    assert refusal(default("sample", value={"n": 3})) == [
        "  sample: unknown key; allowed here: atlas, autoencoder, cohort, evaluation, gates, growth, latents, lesions, "
        "meanflow, projection, seed, study, systems, volumes"
    ]


def test_an_unknown_key_of_a_section_is_named_with_those_there_are():
    assert refusal(default("volumes", "spacing", value=2.0)) == [
        "  volumes.spacing: unknown key; allowed here: already_stripped, bias_field, min_extent_mm, nan, percentiles, "
        "shape, skull_strip, skull_strip_device, skull_strip_timeout_s, spacing_mm"
    ]


@pytest.mark.parametrize(
    ("keys", "allowed"),
    [
        (("cohort", "embedded", "people"), "n_participants, seed, shape, spacing_mm, variation"),
        (("cohort", "split", "validation"), "test, train, val"),
        (
            ("meanflow", "flow", "times", "t_mean"),
            "fraction_corner, fraction_r_equals_t, fraction_uniform, r_logit_normal, t_logit_normal",
        ),
    ],
)
def test_an_unknown_key_two_levels_down_is_named_too(keys, allowed):
    assert refusal(default(*keys, value=1)) == [f"  {'.'.join(keys)}: unknown key; allowed here: {allowed}"]


def test_an_unknown_key_of_a_list_item_is_named_with_its_number():
    arms = [{"prediction": "u", "dim": 4}, {"prediction": "x", "dim": 4, "width": 3}]
    assert refusal(default("meanflow", "toy", "arms", value=arms)) == [
        "  meanflow.toy.arms.1.width: unknown key; allowed here: dim, prediction"
    ]


def test_an_unknown_key_of_a_section_that_may_be_absent_is_named():
    config = default("cohort", "folder", value={"root": "data", "glob": "*"})
    assert refusal(config) == [
        "  cohort.folder.glob: unknown key; allowed here: columns, masks, participants, pattern, root, scan_regex"
    ]


def test_every_wrong_key_has_a_line():
    config = default("volumes", "spacing", value=2.0)
    config["meanflow"]["train"]["lr"] = -1
    config["speed"] = "fast"
    assert [line.split(":")[0].strip() for line in refusal(config)] == ["volumes.spacing", "meanflow.train.lr", "speed"]


# --- wrong values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "value", "line"),
    [
        (
            ("meanflow", "train", "lr"), "high",
            "Input should be a valid number, unable to parse string as a number; found 'high'",
        ),
        (
            ("meanflow", "train", "steps"), 2.5,
            "Input should be a valid integer, got a number with a fractional part; found 2.5",
        ),
        (("meanflow", "train", "batch"), 0, "Input should be greater than or equal to 1; found 0"),
        (("meanflow", "train", "lr"), 0.0, "Input should be greater than 0; found 0.0"),
        (("meanflow", "train", "precision"), "16-mixed", "Input should be '32-true' or 'bf16-mixed'; found '16-mixed'"),
        (("meanflow", "flow", "prediction"), "v", "Input should be 'u' or 'x'; found 'v'"),
        (("meanflow", "flow", "times", "fraction_corner"), 1.2, "Input should be less than or equal to 1; found 1.2"),
        (("cohort", "source"), "s3", "Input should be 'embedded', 'folder', 'bids', 'table' or 'ixi'; found 's3'"),
        (("autoencoder", "sha256"), "abc", "String should match pattern '^[0-9a-f]{64}$'; found 'abc'"),
        (("study",), "my study", "String should match pattern '^[A-Za-z0-9_-]+$'; found 'my study'"),
        (("seed",), None, "Input should be a valid integer; found None"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_right_and_what_was_found(keys, value, line):
    assert refusal(default(*keys, value=value)) == [f"  {'.'.join(keys)}: {line}"]


def test_a_list_is_checked_item_by_item():
    assert refusal(default("volumes", "shape", value=[64, 0, 64])) == [
        "  volumes.shape.1: Input should be greater than or equal to 1; found 0"
    ]
    assert refusal(default("meanflow", "toy", "arms", value=[{"prediction": "u", "dim": 3}])) == [
        "  meanflow.toy.arms.0.dim: Input should be greater than or equal to 4; found 3"
    ]


def test_a_section_that_is_missing_is_named():
    config = default()
    del config["meanflow"]["net"]
    (line,) = refusal(config)
    assert line.startswith("  meanflow.net: Field required")


def test_a_section_that_is_missing_is_named_and_nothing_else_printed():
    config = default()
    del config["meanflow"]["net"]
    assert refusal(config) == ["  meanflow.net: Field required"]


@pytest.mark.parametrize(
    ("keys", "value", "line"),
    [
        (
            ("cohort", "split"), {"train": 0.8, "val": 0.1, "test": 0.2},
            "cohort.split: fractions of participants must sum to 1; got 1.1",
        ),
        (
            ("cohort", "source"), "folder",
            "cohort: source is folder, so cohort.folder needs at least root; got none",
        ),
        (
            ("volumes", "shape"), [64, 82, 64],
            "volumes: volumes.shape must be multiples of 4, the autoencoder's downsampling; got (64, 82, 64)",
        ),
        (
            ("volumes", "shape"), [64, 84, 64],
            "config: volumes.shape must be multiples of 16 (4 of the autoencoder x net.patch 2 x 2 of net.widths); "
            "got (64, 84, 64)",
        ),
        (
            ("meanflow", "net", "attention"), [True],
            "meanflow.net: net.attention must have one entry per width; got [True] for [48, 96]",
        ),
        (
            ("meanflow", "net", "widths"), [48, 100],
            "meanflow.net: net.widths must be multiples of norm_groups 16; got [100]",
        ),
        (
            ("meanflow", "flow", "times", "fraction_r_equals_t"), 0.95,
            "meanflow.flow.times: fraction_r_equals_t, fraction_corner and fraction_uniform must sum to at most 1",
        ),
        (
            ("meanflow", "samples", "nfe"), [2, 10],
            "meanflow.samples: samples.nfe must hold 1; got [2, 10]",
        ),
        (
            ("autoencoder", "weights"), None,
            "autoencoder: autoencoder.weights is null, so autoencoder.steps must be above 0; got 0",
        ),
        (
            ("evaluation", "features"), [{"name": "deepbet", "weights": "a.pt"}],
            "evaluation.features.0: features deepbet: weights are a path for radimagenet, and none for the other sets",
        ),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_together_are_refused_with_the_reason(keys, value, line):
    assert refusal(default(*keys, value=value)) == [f"  {line}"]


def test_a_folder_with_its_root_is_taken():
    config = default("cohort", "source", value="folder")
    config["cohort"]["folder"] = {"root": "data"}
    assert read_config(config).cohort.folder.pattern == "**/*.nii.gz"


def test_independent_features_and_two_sample_tests_are_off_by_default_and_can_be_added():
    assert not read_config(default()).evaluation.two_sample
    config = default("evaluation", "features", value=[{"name": "encoder"}, {"name": "deepbet", "n": 64}])
    config["evaluation"]["two_sample"] = True
    assert evaluation_settings(read_config(config))["two_sample"]


def test_a_config_cannot_be_changed_once_read():
    config = read_config(default())
    for section, name in (
        (config, "study"),
        (config.meanflow.train, "steps"),
        (config.meanflow.flow.times, "fraction_corner"),
    ):
        with pytest.raises(ValidationError, match="Instance is frozen"):
            setattr(section, name, 1)


def test_every_default_is_a_value_its_own_section_takes():
    """Defaults are not checked by pydantic until they are given back."""
    config = Config.model_validate(default())
    assert Config.model_validate(config.model_dump(mode="json")) == config


# --- what only a job would find out ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("volumes", "percentiles"), [99.0, 1.0]),
        (("seed",), -1),
        (("meanflow", "train", "seed"), -1),
        (("cohort", "embedded", "variation"), {"nose_mm": 1.0}),
        (("meanflow", "toy", "nfe"), [1, 2]),
        (("meanflow", "flow", "p"), [2.0, 2.0]),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_unusable_values_are_refused_before_any_job(keys, value):
    assert refusal(default(*keys, value=value))


def test_packaged_weights_are_made_from_participants_of_no_other_study():
    """Seed of the simulation and number name a participant: different seeds are different participants."""
    # Each of these goes on top of those before.
    autoencoder = [f"studies/{name}_vae.yaml" for name in ("compact", "equivariant", "sharp")]
    made = [*autoencoder, "studies/generator.yaml", "studies/generator_continued.yaml"]
    seeds = {}
    for path in STUDIES:
        merged = default()
        for layer in autoencoder[: autoencoder.index(path) + 1] if path in autoencoder else [path]:
            update_config(merged, load(layer))
        seeds[path] = read_config(merged).cohort.embedded.seed
    packaged = [seeds[path] for path in made]
    assert packaged[1] == packaged[2]  # the decoder is trained on the participants of the encoder
    others = {seed for path, seed in seeds.items() if path not in made} | {read_config(default()).cohort.embedded.seed}
    lesions = read_config(default()).lesions.simulated.seed
    assert len(set(packaged)) == 4 and not set(packaged) & (others | {lesions})
