# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the hashes of a checkpoint cost: python -m experiments.benchmarks.save [--flag=value ...]

Saves as they are, the same without hashes, the same with nothing done before Orbax is through, and
as Orbax saves by default, in turn: all end when every byte is on the disk. Other work on the
machine lengthens seconds, but hardly the core's.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import flags
from orbax.checkpoint import v1 as ocp

from deltanet_jax.train import checkpoint, manifest
from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.files import write_atomically
from deltanet_jax.train.step import TrainState
from experiments.benchmarks.flags import define_save_benchmark_flags
from experiments.benchmarks.records import machine
from experiments.command import run
from experiments.faults.damage import Position, make_state
from experiments.flags import explain, whole_numbers
from experiments.logs import quiet_logs

ORBAX_EVERY = 5  # it compresses, which takes many times as long
QUIET_SECONDS = 0.25
QUIET_CORES = 0.1  # in use by others


@contextlib.contextmanager
def changed(owner, name: str, value: object) -> Iterator[None]:
    """With `owner.name` another one for a while."""
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


@contextlib.contextmanager
def without_hashes() -> Iterator[None]:
    """Manifests that are written and synced as ever, pieces sent to the disk early, none read."""
    with changed(manifest, "_digest", lambda *_: b"none"):
        yield


@contextlib.contextmanager
def late() -> Iterator[None]:
    """Neither hashes nor anything else while Orbax writes."""
    with without_hashes(), changed(manifest.Early, "_look", lambda *_: None):
        yield


@contextlib.contextmanager
def as_orbax_does() -> Iterator[None]:
    """Saves with Orbax's own defaults, zstd among them, and no hashes."""
    with late(), changed(checkpoint, "_uncompressed", ocp.Context):
        yield


WAYS = {
    "hashed": contextlib.nullcontext,
    "plain": without_hashes,
    "late": late,
    "orbax": as_orbax_does,
}
COMPARED = ("hashed", "plain", "late")
FEWEST = 5  # saves that a median is taken of


def _machine_cores() -> float:
    """Seconds that all cores together have been busy with programs, since the machine began."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(seconds: float) -> None:
    """Returns once other programs let the cores be, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = _machine_cores()
        time.sleep(QUIET_SECONDS)
        if _machine_cores() - before < QUIET_CORES * QUIET_SECONDS:
            return


def time_save(directory: Path, state: TrainState, wait_seconds: float) -> dict[str, float]:
    """Of one save, in seconds.

    "waits": a step for it; "seconds": until it is committed; "cores": all cores together for this
    program, "others": for other programs and the kernel's own threads.
    """
    os.sync()  # what others have written
    wait_for_quiet(wait_seconds)
    with Checkpoints(directory, 1) as checkpoints:
        began, cores, machine_cores = time.perf_counter(), time.process_time(), _machine_cores()
        checkpoints.save(1, state, Position())
        waits = time.perf_counter() - began
        checkpoints.wait()
        seconds, cores = time.perf_counter() - began, time.process_time() - cores
        others = max(0.0, _machine_cores() - machine_cores - cores)
    return {"waits": waits, "seconds": seconds, "cores": cores, "others": others}


def measure(scratch: Path, megabytes: int, saves: int, wait_seconds: float = 0.0) -> dict:
    """One row: all times of a state of so many megabytes, by way, and seconds to verify it.

    Each save begins when other programs let the cores be, or after `wait_seconds`.
    """
    state = jax.block_until_ready(make_state(1, megabytes * 2**20 // 3))
    times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    verify_seconds = []
    directory = scratch / "save"
    time_save(directory, state, 0.0)  # which compiles
    for number in range(saves):
        ways = [way for way in WAYS if way != "orbax" or number % ORBAX_EVERY == 0]
        for way in ways if number % 2 else reversed(ways):
            shutil.rmtree(directory)
            with WAYS[way]():
                times[way].append(time_save(directory, state, wait_seconds))
            if way == "hashed":
                began = time.perf_counter()
                manifest.verify(directory / "1")
                verify_seconds.append(time.perf_counter() - began)
    shutil.rmtree(directory)
    return {
        "megabytes": megabytes,
        "times": times,
        "verify_seconds": verify_seconds,
        "load_average": os.getloadavg()[0],
    }


def counted(row: dict) -> dict[str, list[dict[str, float]]]:
    """Of a row's times by way, those of quiet cores; all, if there are too few."""
    quiet = {
        way: [t for t in times if t["others"] <= QUIET_CORES * t["seconds"]]
        for way, times in row["times"].items()
    }
    enough = all(len(quiet[way]) >= min(FEWEST, len(row["times"][way])) for way in COMPARED)
    return {
        way: quiet[way] if enough and quiet[way] else times for way, times in row["times"].items()
    }


def table(rows: list[dict]) -> str:
    """Markdown: medians, and by how much hashes lengthen a save."""
    lines = [
        "| megabytes | saves | a save, s | without hashes | hashes add | nothing done early "
        "| over that | as Orbax saves by default | core-seconds | without hashes | by default "
        "| of others | a step waits, s | verified, GB/s |",
        "|" + "---|" * 14,
    ]
    for row in rows:
        times = counted(row)
        hashed, plain, late, orbax = (
            {key: float(np.median([t[key] for t in times[way]])) for key in times[way][0]}
            for way in WAYS
        )
        speed = row["megabytes"] * 2**20 / 1e9 / float(np.median(row["verify_seconds"]))
        lines.append(
            f"| {row['megabytes']} | {len(times['hashed'])} "
            f"| {hashed['seconds']:.2f} | {plain['seconds']:.2f} "
            f"| {hashed['seconds'] / plain['seconds'] - 1:+.0%} | {late['seconds']:.2f} "
            f"| {hashed['seconds'] / late['seconds'] - 1:+.0%} | {orbax['seconds']:.2f} "
            f"| {hashed['cores']:.2f} | {plain['cores']:.2f} "
            f"| {orbax['cores']:.2f} | {hashed['others']:.2f} "
            f"| {hashed['waits']:.2f} | {speed:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    jax.config.update("jax_platforms", "cpu")
    values = flags.FLAGS
    try:
        sizes = whole_numbers("megabytes", values.megabytes)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    record = {"rows": [], "machine": machine(values.commit)}
    with tempfile.TemporaryDirectory(prefix="deltanet-jax-save-", dir=values.scratch_dir) as folder:
        for megabytes in sizes:
            row = measure(Path(folder), megabytes, values.saves, values.wait_seconds)
            record["rows"].append(row)
            print(table([row]), flush=True)
            if values.record:
                write_atomically(Path(values.record), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    define_save_benchmark_flags()
    run(main)
