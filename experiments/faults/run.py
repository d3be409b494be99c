# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Causes faults and counts what was lost: python -m experiments.faults.run [--flag=value ...]

Prints a line for each kind of fault; with --record_dir writes record.json there, from which
docs/reliability.md is made (python -m experiments.report). Exits with 1 if anything was lost.
"""

import dataclasses
import functools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from experiments.faults import bombs, damage, hostile, processes
from experiments.faults.outcome import Outcome
from experiments.faults.runs import Runs, find_secrets
from experiments.flags import define_faults_flags
from experiments.logs import quiet_logs
from pallas_kernels._common.timing import machine_info


def make_faults(scratch: Path, values: flags.FlagValues) -> dict[str, Callable[[], Outcome]]:
    """What causes each kind of fault, by the name that --faults takes."""
    rng = np.random.default_rng(values.seed)
    runs = functools.cache(lambda: Runs(scratch, rng))
    some = max(1, values.kills // 4)
    few = max(1, some // 4)

    def secrets() -> Outcome:
        """After all others: in anything that the processes of this command wrote or said."""
        outcome = Outcome("a process with secrets in its environment", caused=runs().started)
        return find_secrets(scratch, outcome)

    return {
        "flips": lambda: damage.flip_bits(scratch, rng, values.flips),
        "cuts": lambda: damage.cut_files(scratch),
        "shards": lambda: damage.flip_shards(scratch, rng, values.flips),
        "hashing": lambda: damage.hashing(scratch, values.megabytes),
        "hostile": lambda: hostile.hostile_files(scratch, rng, values.files),
        "bombs": lambda: bombs.bombs(scratch),
        "alone": lambda: processes.alone(runs(), few),
        "kill": lambda: processes.kill(runs(), values.kills),
        "kill_in_commit": lambda: processes.kill_in_commit(runs(), some),
        "terminate": lambda: processes.terminate(runs(), some),
        "full_disk": lambda: processes.full_disk(runs(), some),
        "two_processes": lambda: processes.two_processes(runs(), few),
        "kill_one_of_two": lambda: processes.kill_one_of_two(runs(), max(1, few // 3)),
        "hang": lambda: processes.hang(runs(), few),
        "clock": lambda: processes.clock(runs(), few),
        "not_finite": lambda: processes.not_finite(runs(), few),
        "second_run": lambda: processes.second_run(runs(), few),
        "secrets": secrets,
    }


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    logging.getLogger("deltanet_jax").setLevel(logging.ERROR)  # every fault warns
    jax.config.update("jax_platforms", "cpu")
    values = flags.FLAGS
    record = {"machine": machine_info(), "faults": []}
    with tempfile.TemporaryDirectory(prefix="deltanet-jax-faults-") as scratch:
        faults = make_faults(Path(scratch), values)
        names = values.faults or list(faults)
        for name in names:
            if name not in faults:
                sys.exit(f"error: --faults: wanted some of {sorted(faults)}, got {name!r}")
        for name in names:
            began = time.monotonic()
            outcome = faults[name]()
            seconds = round(time.monotonic() - began, 1)
            record["faults"].append({**dataclasses.asdict(outcome), "seconds": seconds})
            figures = "".join(f", {k} {v:.3g}" for k, v in outcome.figures.items())
            print(
                f"{outcome.name}: {outcome.caused} caused, {outcome.lost} lost{figures}", flush=True
            )
            for problem in outcome.problems:
                print(f"  {problem}")
    if values.record_dir:
        folder = Path(values.record_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    if any(outcome["lost"] for outcome in record["faults"]):
        sys.exit(1)


if __name__ == "__main__":
    define_faults_flags()
    app.run(main)
