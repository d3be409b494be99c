# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of saves, with one megabyte."""

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


def test_what_hashes_add_is_of_saves_made_one_after_the_other():
    """The machine is slower from one pair to the next; what hashes add is a tenth of each."""
    seconds = {"hashed": (1.1, 2.2, 4.4), "plain": (1.0, 2.0, 4.0), "late": (2.2, 2.2, 2.2)}
    times = {
        way: [{"waits": 0.1, "seconds": s, "cores": 1.0, "others": 0.5} for s in all_seconds]
        for way, all_seconds in (seconds | {"orbax": (4.0,)}).items()
    }
    row = {"megabytes": 1, "times": times, "verify_seconds": [2**20 / 1e9]}
    assert save.table([row]).splitlines()[2] == (
        "| 1 | 2.20 | 2.00 | +10% | 2.20 | +0% | 4.00 | 1.00 | 1.00 | 1.00 | 0.50 | 0.10 | 1.00 |"
    )


def test_quiet_is_waited_for_so_long_and_no_longer(monkeypatch):
    busy = iter([0.0, 1.0, 1.0, 1.01])  # core-seconds; the second look finds little to be done
    monkeypatch.setattr(save, "_machine_cores", lambda: next(busy))
    monkeypatch.setattr(save.time, "sleep", lambda seconds: None)
    save.wait_for_quiet(100.0)
    assert next(busy, None) is None
    save.wait_for_quiet(0.0)  # does not look
