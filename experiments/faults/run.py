# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Causes faults and counts what was lost: python -m experiments.faults.run [--flag=value ...]

Prints a line for each kind of fault; with --record_dir writes record.json there after each. Of it
docs/reliability.md is made (python -m experiments.report). Exits with 1 if anything was lost.
"""

import concurrent.futures
import dataclasses
import functools
import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags

from deltanet_jax.train.files import make_directory, write_atomically
from experiments.command import run
from experiments.faults import arguments, bombs, configs, damage, hostile, processes, saves
from experiments.faults.outcome import Outcome, parts
from experiments.faults.runs import Runs, find_secrets
from experiments.flags import define_faults_flags
from experiments.logs import quiet_logs
from pallas_kernels._common.timing import machine_info

# In this process, in which Orbax saves one thing at a time; others start processes, side by side.
FIRST = ("flips", "cuts", "shards", "hostile", "arguments", "configs")
LAST = "secrets"  # what is looked for in all that the others left


Fault = Callable[[], Outcome]


def make_faults(scratch: Path, values: flags.FlagValues) -> dict[str, Fault | list[Fault]]:
    """What causes each kind of fault, by the name that --faults takes; some in several parts."""
    bits, shards, moments, kept = np.random.default_rng(values.seed).spawn(4)
    make_runs, lock = functools.cache(lambda: Runs(scratch, moments)), threading.Lock()

    def runs() -> Runs:
        with lock:
            return make_runs()

    some = values.others
    few = max(1, some // 4)
    calls = max(1, values.files // 10)

    def secrets() -> Outcome:
        """In anything that the processes of this command wrote or said."""
        outcome = Outcome("a process with secrets in its environment", caused=runs().started)
        return find_secrets(scratch, outcome)

    return {
        "flips": lambda: damage.flip_bits(scratch, bits, values.flips),
        "cuts": lambda: damage.cut_files(scratch),
        "shards": lambda: damage.flip_shards(scratch, shards, values.flips),
        "hostile": lambda: hostile.hostile_files(scratch, values.seed, values.files),
        "arguments": lambda: arguments.hostile_arguments(values.seed, calls),
        "configs": lambda: configs.hostile_configs(values.seed, calls),
        "keep": lambda: saves.keep_policy(scratch, kept, some),
        "bombs": lambda: bombs.bombs(scratch),
        "alone": lambda: processes.alone(runs(), few),
        "kill": [
            lambda part=part: processes.kill(runs(), part)
            for part in parts(values.kills, values.at_once)
        ],
        "kill_in_commit": lambda: processes.kill_in_commit(runs(), some),
        "terminate": lambda: processes.terminate(runs(), some),
        "full_disk": lambda: processes.full_disk(runs(), some),
        "full_for_a_while": lambda: processes.full_for_a_while(runs(), few),
        "two_processes": lambda: processes.two_processes(runs(), few),
        "kill_one_of_two": lambda: processes.kill_one_of_two(runs(), max(1, few // 3)),
        "hang": lambda: processes.hang(runs(), few),
        "clock": lambda: processes.clock(runs(), few),
        "not_finite": lambda: processes.not_finite(runs(), few),
        "second_run": lambda: processes.second_run(runs(), few),
        LAST: secrets,
    }


def _cause(fault: Fault) -> Outcome:
    """Prints what came of it, and returns it."""
    began = time.monotonic()
    outcome = fault()
    outcome.seconds = round(time.monotonic() - began, 1)
    figures = "".join(f", {k} {v:.3g}" for k, v in outcome.figures.items())
    lines = [f"{outcome.name}: {outcome.caused} caused, {outcome.lost} lost{figures}"]
    print("\n  ".join([*lines, *outcome.problems]), flush=True)
    return outcome


class Record:
    """What was found so far, in record.json, if there is a folder for it.

    Attributes:
        lost: how much, of all kinds.
    """

    def __init__(self, folder: str, names: list[str]):
        self._folder, self._names, self._machine = folder, names, machine_info()
        self._found: dict[str, Outcome] = {}

    @property
    def lost(self) -> int:
        return sum(outcome.lost for outcome in self._found.values())

    def add(self, name: str, outcome: Outcome) -> None:
        """A kind, or a part of one, that is through."""
        self._found[name] = outcome + self._found[name] if name in self._found else outcome
        if self._folder:
            found = [
                dataclasses.asdict(self._found[name]) for name in self._names if name in self._found
            ]
            make_directory(Path(self._folder))
            text = json.dumps({"machine": self._machine, "faults": found}, indent=2)
            write_atomically(Path(self._folder) / "record.json", text + "\n")


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    logging.getLogger("deltanet_jax").setLevel(logging.ERROR)  # every fault warns
    jax.config.update("jax_platforms", "cpu")
    values = flags.FLAGS
    with tempfile.TemporaryDirectory(prefix="deltanet-jax-faults-") as scratch:
        faults = make_faults(Path(scratch), values)
        names = values.faults or list(faults)
        for name in names:
            if name not in faults:
                sys.exit(f"error: --faults: wanted some of {sorted(faults)}, got {name!r}")
        record = Record(values.record_dir, names)
        for name in names:
            if name in FIRST:
                record.add(name, _cause(faults[name]))
        with concurrent.futures.ThreadPoolExecutor(values.at_once) as pool:
            others = [name for name in names if name not in (*FIRST, LAST)]
            jobs = {
                pool.submit(_cause, part): name
                for name in others
                for part in (faults[name] if isinstance(faults[name], list) else [faults[name]])
            }
            for job in concurrent.futures.as_completed(jobs):
                record.add(jobs[job], job.result())
        if LAST in names:
            record.add(LAST, _cause(faults[LAST]))
    if record.lost:
        sys.exit(1)


if __name__ == "__main__":
    define_faults_flags()
    run(main)
