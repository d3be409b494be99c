# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the hashes of a checkpoint cost: python -m experiments.benchmarks.save [--flag=value ...]

Saves as they are, the same without hashes, and as Orbax saves by default, in turn: all end when
every byte is on the disk. Other work on the machine lengthens seconds, but hardly the core's.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from orbax.checkpoint import v1 as ocp

from deltanet_jax.train import checkpoint, manifest
from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.files import write_atomically
from deltanet_jax.train.step import TrainState
from experiments.benchmarks.flags import define_save_benchmark_flags
from experiments.benchmarks.records import machine
from experiments.faults.damage import Position, make_state
from experiments.logs import quiet_logs

ORBAX_EVERY = 3  # it compresses, which takes many times as long


@contextlib.contextmanager
def without_hashes() -> Iterator[None]:
    """Manifests that are written and synced as ever, with no file read."""
    piece, look = manifest._piece, manifest.Early._look
    manifest._piece = lambda *_: b""
    manifest.Early._look = lambda *_: None
    try:
        yield
    finally:
        manifest._piece, manifest.Early._look = piece, look


@contextlib.contextmanager
def as_orbax_does() -> Iterator[None]:
    """Saves with Orbax's own defaults, zstd among them, and no hashes."""
    uncompressed = checkpoint._uncompressed
    checkpoint._uncompressed = ocp.Context
    try:
        with without_hashes():
            yield
    finally:
        checkpoint._uncompressed = uncompressed


WAYS = {"hashed": contextlib.nullcontext, "plain": without_hashes, "orbax": as_orbax_does}


def time_save(directory: Path, state: TrainState) -> dict[str, float]:
    """Seconds that a step waits for a save, until it is committed, and of all cores together."""
    os.sync()  # what others have written
    with Checkpoints(directory, 1) as checkpoints:
        began, began_cores = time.perf_counter(), time.process_time()
        checkpoints.save(1, state, Position())
        waits = time.perf_counter() - began
        checkpoints.wait()
        seconds = time.perf_counter() - began
    return {"waits": waits, "seconds": seconds, "cores": time.process_time() - began_cores}


def measure(scratch: Path, megabytes: int, saves: int) -> dict:
    """One row: all times of a state of so many megabytes, by way, and seconds to verify it."""
    state = jax.block_until_ready(make_state(1, megabytes * 2**20 // 3))
    times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    verify_seconds = []
    directory = scratch / "save"
    time_save(directory, state)  # which compiles
    for number in range(saves):
        ways = [way for way in WAYS if way != "orbax" or number % ORBAX_EVERY == 0]
        for way in ways if number % 2 else reversed(ways):
            shutil.rmtree(directory)
            with WAYS[way]():
                times[way].append(time_save(directory, state))
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


def medians(row: dict) -> dict[str, dict[str, float]]:
    """Of a row's times, by way."""
    return {
        way: {key: float(np.median([t[key] for t in times])) for key in times[0]}
        for way, times in row["times"].items()
    }


def table(rows: list[dict]) -> str:
    """Markdown: medians, and by how much hashes lengthen a save."""
    lines = [
        "| megabytes | a save, s | without hashes | hashes add | as Orbax saves by default "
        "| core-seconds | without hashes | by default | a step waits, s | verified, GB/s |",
        "|" + "---|" * 10,
    ]
    for row in rows:
        found = medians(row)
        hashed, plain, orbax = (found[way] for way in WAYS)
        speed = row["megabytes"] * 2**20 / 1e9 / float(np.median(row["verify_seconds"]))
        lines.append(
            f"| {row['megabytes']} | {hashed['seconds']:.2f} | {plain['seconds']:.2f} "
            f"| {hashed['seconds'] / plain['seconds'] - 1:+.0%} | {orbax['seconds']:.2f} "
            f"| {hashed['cores']:.2f} | {plain['cores']:.2f} | {orbax['cores']:.2f} "
            f"| {hashed['waits']:.2f} | {speed:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    jax.config.update("jax_platforms", "cpu")
    values = flags.FLAGS
    record = {"rows": [], "machine": machine(values.commit)}
    with tempfile.TemporaryDirectory(prefix="deltanet-jax-save-", dir=values.scratch_dir) as folder:
        for megabytes in map(int, values.megabytes):
            record["rows"].append(measure(Path(folder), megabytes, values.saves))
            print(table(record["rows"][-1:]), flush=True)
    if values.record:
        write_atomically(Path(values.record), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    define_save_benchmark_flags()
    app.run(main)
