"""Runs of a study: one per setting, whoever asks for it; a wrong arm is refused by name before any job."""

import pytest
import yaml

from neuromf.config.study import read_config
from neuromf.workflow.digests import ROOT
from neuromf.workflow.runs import Member, plan

RECTIFIED = {"flow": {"times": {"fraction_r_equals_t": 1.0, "fraction_corner": 0.0}}, "samples": {"sampler": "euler"}}


def study(ablations, active=None, **more):
    values = yaml.safe_load((ROOT / "config.yaml").read_text()) | {"ablations": ablations, "every_arm": None} | more
    return read_config(values | {"active": list(ablations) if active is None else active})


def test_an_arm_is_the_config_with_what_it_changes():
    base = study({"rectified": {"arms": {"rf": RECTIFIED}}, "idle": {"arms": {"a": {}}}}, active=["rectified"])
    runs, members = plan(base)
    assert list(runs) == ["meanflow", "rectified-rf-s0"] and runs["meanflow"] == base
    assert members == [Member("rectified", "rf", 0, "rectified-rf-s0")]
    arm = runs["rectified-rf-s0"]
    assert arm.flow.times.fraction_r_equals_t == 1 and arm.samples.sampler == "euler"
    changed = {"flow": {**base.flow.model_dump(), "times": arm.flow.times.model_dump()}}
    wanted = base.model_dump() | changed | {"samples": {**base.samples.model_dump(), "sampler": "euler"}}
    assert arm.model_dump() == wanted | {"ablations": {}, "active": []}


def test_equal_settings_are_one_run_whoever_asks():
    p = study({}).flow.p
    runs, members = plan(
        study(
            {
                "lp": {"arms": {"1.0": {"flow": {"p": 1.0}}, "same": {"flow": {"p": p}}}, "seeds": [0, 1]},
                "again": {"arms": {"one": {"flow": {"p": 1}}}, "seeds": [1]},
            }
        )
    )
    assert list(runs) == ["meanflow", "lp-same-s1", "lp-1.0-s0", "lp-1.0-s1"]
    served = {(m.ablation, m.arm, m.seed): m.run for m in members}
    assert served["lp", "same", 0] == "meanflow" and served["again", "one", 1] == "lp-1.0-s1"


def test_the_arm_that_changes_nothing_leads_wherever_it_stands():
    arms = {"1": {"flow": {"p": 1.0}}, "3": {"flow": {"p": 3.0}}}
    same = {"flow": {"p": study({}).flow.p}}
    for base in ({}, same):
        assert [member.arm for member in plan(study({"lp": {"arms": arms | {"base": base}}}))[1]] == ["base", "1", "3"]


def test_a_new_arm_adds_its_runs_and_renames_none():
    lp = {"arms": {"1": {"flow": {"p": 1.0}}}, "seeds": [0]}
    before = plan(study({"lp": lp}))[0]
    after = plan(study({"lp": {**lp, "arms": {**lp["arms"], "1.5": {"flow": {"p": 1.5}}}}}))[0]
    assert {k: v.flow for k, v in before.items()}.items() <= {k: v.flow for k, v in after.items()}.items()
    assert set(after) - set(before) == {"lp-1.5-s0"}


def test_an_idle_ablation_keeps_the_names_of_those_behind_it():
    both = {"a": {"arms": {"x": {"flow": {"p": 1.0}}}}, "b": {"arms": {"y": {"flow": {"p": 1.0}}}}}
    assert list(plan(study(both))[0]) == list(plan(study(both, active=["b"]))[0]) == ["meanflow", "a-x-s0"]


def test_what_every_arm_changes_comes_first():
    short = {"train": {"steps": 40}, "samples": {"evaluations": [1]}}
    ablations = {"lp": {"arms": {"1": {"flow": {"p": 1.0}}, "long": {"train": {"steps": 80}}, "base": {}}}}
    runs, members = plan(study(ablations, every_arm=short))
    assert [config.train.steps for config in runs.values()] == [study({}).train.steps, 40, 40, 80]
    assert runs["lp-base-s0"].samples.evaluations == [1] and "meanflow" not in {m.run for m in members}


@pytest.mark.parametrize(
    ("ablations", "active", "words"),
    [
        ({"lp": {"arms": {"1": {"flow": {"tangents": 1}}}}}, [], ["ablation lp, arm 1", "flow.tangents: unknown key"]),
        ({"lp": {"arms": {"1": {"volumes": {}}}}}, [], ["ablations.lp.arms.1.volumes"]),
        ({"lp": {"arms": {"P 1": {}}}}, [], ["ablations.lp.arms.P 1"]),
        ({"lp": {"arms": {}}}, [], ["ablations.lp.arms"]),
        ({"lp": {"arms": {"1": {}}, "seeds": []}}, [], ["ablations.lp.seeds"]),
        ({"lp": {"arms": {"1": {}}}}, ["pl"], ["active names ['pl'], which ablations does not hold: ['lp']"]),
    ],
)
def test_a_wrong_arm_is_refused_by_name_even_when_it_is_idle(ablations, active, words):
    with pytest.raises(SystemExit) as error:
        plan(study(ablations, active))
    assert all(word in str(error.value) for word in words), error.value


def test_the_run_of_the_config_needs_more_evaluations_to_compare_one_with():
    with pytest.raises(SystemExit, match="must hold something larger than 1"):
        plan(study({}, samples={"evaluations": [1]}))
