# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of saves, with one megabyte."""

from deltanet_jax.train import checkpoint, manifest
from experiments.benchmarks import save


def test_saves_are_timed_each_way_and_only_one_reads_the_files(tmp_path, monkeypatch):
    ways = (manifest._piece, manifest.Early._look, checkpoint._uncompressed)
    row = save.measure(tmp_path, 1, 4)
    assert {way: len(times) for way, times in row["times"].items()} == {
        "hashed": 4,
        "plain": 4,
        "orbax": 2,
    }
    assert all(t["waits"] <= t["seconds"] for times in row["times"].values() for t in times)
    assert len(row["verify_seconds"]) == 4 and not list(tmp_path.iterdir())
    assert (manifest._piece, manifest.Early._look, checkpoint._uncompressed) == ways
    row["times"] = {
        way: [{"waits": 0.1, "seconds": seconds, "cores": 1.0}] * 3
        for way, seconds in (("hashed", 1.1), ("plain", 1.0), ("orbax", 4.0))
    }
    assert save.table([row | {"verify_seconds": [2**20 / 1e9]}]).splitlines()[2] == (
        "| 1 | 1.10 | 1.00 | +10% | 4.00 | 1.00 | 1.00 | 1.00 | 0.10 | 1.00 |"
    )
