"""Times of a training step of the growth system."""

from neuromf.benchmarks.growth_step import study


def test_every_way_is_timed_in_both_precisions():
    rows = study(side=8, batch=2, width=4, z_dim=4, steps=3, rounds=1)
    assert [(row["way"], row["precision"]) for row in rows] == [
        (way, precision) for precision in ("float32", "bf16") for way in ("plain", "module")
    ]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 for row in rows) and rows[0]["cpu_ratio"] == 1
