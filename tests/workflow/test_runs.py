"""Runs of a study: equal settings are one run; a wrong arm is refused by name before any job."""

import pytest
import yaml

from neuromf.config.study import read_config
from neuromf.workflow.digests import ROOT
from neuromf.workflow.runs import Member, plan

RECTIFIED = {"flow": {"times": {"fraction_r_equals_t": 1.0, "fraction_corner": 0.0}}, "samples": {"sampler": "euler"}}


def study(arms, run=None, defaults=None, **samples):
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["meanflow"]["ablations"] = {"arms": arms, "defaults": defaults, "run": list(arms) if run is None else run}
    values["meanflow"]["samples"] |= samples
    return read_config(values)


def test_an_arm_is_the_config_with_what_it_changes():
    config = study({"rectified": {"arms": {"rf": RECTIFIED}}, "idle": {"arms": {"a": {}}}}, run=["rectified"])
    base = config.meanflow
    runs, members = plan(config)
    assert list(runs) == ["meanflow", "rectified-rf-s0"] and runs["meanflow"] == base
    assert members == [Member("rectified", "rf", 0, "rectified-rf-s0")]
    arm = runs["rectified-rf-s0"]
    assert arm.flow.times.fraction_r_equals_t == 1 and arm.samples.sampler == "euler"
    changed = {"flow": {**base.flow.model_dump(), "times": arm.flow.times.model_dump()}}
    wanted = base.model_dump() | changed | {"samples": {**base.samples.model_dump(), "sampler": "euler"}}
    assert arm.model_dump() == wanted


def test_equal_settings_are_one_run_whoever_asks():
    p = study({}).meanflow.flow.p
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
    same = {"flow": {"p": study({}).meanflow.flow.p}}
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
    assert list(plan(study(both))[0]) == list(plan(study(both, run=["b"]))[0]) == ["meanflow", "a-x-s0"]


def test_what_every_arm_changes_comes_first():
    short = {"train": {"steps": 40}, "samples": {"nfe": [1]}}
    ablations = {"lp": {"arms": {"1": {"flow": {"p": 1.0}}, "long": {"train": {"steps": 80}}, "base": {}}}}
    runs, members = plan(study(ablations, defaults=short))
    assert [config.train.steps for config in runs.values()] == [study({}).meanflow.train.steps, 40, 40, 80]
    assert runs["lp-base-s0"].samples.nfe == [1] and "meanflow" not in {m.run for m in members}


@pytest.mark.parametrize(
    ("ablations", "run", "words"),
    [
        ({"lp": {"arms": {"1": {"flow": {"tangents": 1}}}}}, [], ["ablation lp, arm 1", "flow.tangents: unknown key"]),
        ({"lp": {"arms": {"1": {"volumes": {}}}}}, [], ["meanflow.ablations.arms.lp.arms.1.volumes"]),
        ({"lp": {"arms": {"P 1": {}}}}, [], ["meanflow.ablations.arms.lp.arms.P 1"]),
        ({"lp": {"arms": {}}}, [], ["meanflow.ablations.arms.lp.arms"]),
        ({"lp": {"arms": {"1": {}}, "seeds": []}}, [], ["meanflow.ablations.arms.lp.seeds"]),
        ({"lp": {"arms": {"1": {}}}}, ["pl"], ["run names ['pl']; allowed are the ablations of arms: ['lp']"]),
    ],
)
def test_a_wrong_arm_is_refused_by_name_even_when_it_is_idle(ablations, run, words):
    with pytest.raises(SystemExit) as error:
        plan(study(ablations, run))
    assert all(word in str(error.value) for word in words), error.value


def test_the_run_of_the_config_needs_more_evaluations_to_compare_one_with():
    with pytest.raises(SystemExit, match="must hold a number above 1"):
        plan(study({}, nfe=[1]))
