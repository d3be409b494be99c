# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of saves, with one megabyte."""

import pytest

from deltanet_jax.train import checkpoint, manifest
from experiments.benchmarks import save


def test_saves_are_timed_each_way_and_only_one_reads_the_files(tmp_path, monkeypatch):
    digest, hashed = manifest._digest, []

    def watched(*place):
        hashed.append(place)
        return digest(*place)

    monkeypatch.setattr(manifest, "_digest", watched)
    ways = (manifest._digest, manifest.Early._look, checkpoint._uncompressed)
    row = save.measure(tmp_path, 1, 4)
    assert {way: len(times) for way, times in row["times"].items()} == {
        "hashed": 4,
        "plain": 4,
        "late": 4,
        "orbax": 1,
    }
    assert all(t["waits"] <= t["seconds"] for times in row["times"].values() for t in times)
    assert len(row["verify_seconds"]) == 4 and not list(tmp_path.iterdir())
    assert (manifest._digest, manifest.Early._look, checkpoint._uncompressed) == ways
    with save.without_hashes():
        count = len(hashed)
        save.time_save(tmp_path / "plain", save.make_state(1, 300), 0.0)
    assert len(hashed) == count > 0


@pytest.mark.parametrize("quiet", [True, False])
def test_medians_are_of_saves_that_others_did_not_disturb(quiet):
    """All of them where there are too few of those."""
    seconds = {"hashed": 1.1, "plain": 1.0, "late": 2.2, "orbax": 4.0}

    def times(way, slower, others, count):
        save = {"waits": 0.1, "seconds": slower * seconds[way], "cores": 1.0, "others": others}
        return [save] * count

    rows = {way: times(way, 1, 0.01, 5 if quiet else 4) + times(way, 3, 2.0, 9) for way in seconds}
    row = {"megabytes": 1, "times": rows, "verify_seconds": [2**20 / 1e9]}
    numbers = "1.10 | 1.00 | +10% | 2.20 | -50% | 4.00 | 1.00 | 1.00 | 1.00 | 0.01 | 0.10 | 1.00"
    if not quiet:
        numbers = (
            "3.30 | 3.00 | +10% | 6.60 | -50% | 12.00 | 1.00 | 1.00 | 1.00 | 2.00 | 0.10 | 1.00"
        )
    assert save.table([row]).splitlines()[2] == f"| 1 | {5 if quiet else 13} | {numbers} |"


def test_quiet_is_waited_for_so_long_and_no_longer(monkeypatch):
    busy = iter([0.0, 1.0, 1.0, 1.01])  # core-seconds; the second look finds little to be done
    monkeypatch.setattr(save, "_machine_cores", lambda: next(busy))
    monkeypatch.setattr(save.time, "sleep", lambda seconds: None)
    save.wait_for_quiet(100.0)
    assert next(busy, None) is None
    save.wait_for_quiet(0.0)  # does not look
