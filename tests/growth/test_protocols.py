"""Protocols, folds and forward pairs."""

import numpy as np
import pytest
from growth.forecast_helpers import simulated

from neuromf.growth.forward_pairs import ForwardPairs
from neuromf.growth.protocols import all_from_first, folds, horizon_bin, last_from_rest
from neuromf.simulation.tumour_cohort import simulate_cohort
from neuromf.simulation.tumour_volumes import simulate_volumes


def arrays(patients):
    t = np.concatenate([p.t for p in patients])
    return (
        np.concatenate([p.y for p in patients])[:, None],
        t,
        np.concatenate([[p.patient] * len(p.t) for p in patients]),
    )


def test_G53_n_visits_give_n_choose_2_pairs_forward_in_time():
    patients = simulated(30)
    pairs = ForwardPairs(*arrays(patients))
    assert len(pairs) == sum(len(p.t) * (len(p.t) - 1) // 2 for p in patients)
    found = pairs.tensors()
    assert (found["months"] > 0).all()
    i, j = pairs.index.T
    assert (pairs.patients[i] == pairs.patients[j]).all() and pairs[5]["start"] == found["start"][5]


def test_G53_rows_in_any_order_give_the_same_pairs():
    z, t, names = arrays(simulated(6))
    order = np.random.default_rng(0).permutation(len(t))
    one, two = ForwardPairs(z, t, names).tensors(), ForwardPairs(z[order], t[order], names[order]).tensors()
    for name in one:
        np.testing.assert_allclose(np.sort(one[name].flatten()), np.sort(two[name].flatten()))


def test_G53_ordinal_time_is_refused():
    z, t, names = arrays(simulated(6))
    index = np.concatenate([np.arange((names == name).sum()) for name in np.unique(names)])
    with pytest.raises(ValueError, match="a visit index, not time"):
        ForwardPairs(z, index, names)
    with pytest.raises(ValueError, match="two visits of patient SIM0000 have the same time"):
        ForwardPairs(z, np.zeros(len(t)), names)


def test_G62_protocols_observe_only_earlier_visits():
    patients = simulated(40)
    last = last_from_rest(patients)
    assert len(last) == 40 and all(case.past.t[-1] < case.t and case.horizon > 0 for case in last)
    first = all_from_first(patients)
    assert len(first) == sum(len(p.t) - 1 for p in patients) and {len(case.past.t) for case in first} == {1}
    assert [horizon_bin(m) for m in (3, 12, 12.1, 24, 60)] == ["0-1", "0-1", "1-2", "1-2", ">2"]


def test_G59_folds_are_by_patient_and_leave_one_out_for_few():
    names = [f"P{k}" for k in range(100)]
    parts = folds(names * 3, seed=0)
    assert len(parts) == 10 and sorted(sum(parts, [])) == sorted(names)
    assert folds(names, seed=0) == parts != folds(names, seed=1)
    assert [len(part) for part in folds(names[:7], seed=0)] == [1] * 7


def test_G85_volumes_without_images_are_those_of_the_image_cohort(tmp_path):
    size = {"n_patients": 3, "n_anatomies": 1, "shape": 16, "spacing_mm": 12.0}
    made = simulate_cohort(out=tmp_path, anatomy="phantom", **size, seed=3, growth_model="treated")
    found = simulate_volumes(3, seed=3, growth_model="treated")
    for name in ("t_months", "V_mm3", "V_true_mm3", "a_per_month"):
        np.testing.assert_allclose(found[name], made[name], rtol=1e-6)
