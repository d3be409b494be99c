# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of whole runs: each run is a process of experiments.main, as a user starts it.

Every fault ends with runs that are left alone; what they end with must equal an unbroken run bit
for bit: arrays, data position, rows of metrics.
"""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.stop import INTERRUPTED, IO_ERROR, NOT_FINITE
from experiments.faults.outcome import Outcome
from experiments.run_config import read_run_config

# Dropout, two parts a batch, evaluations and saves in between.
ARGUMENTS = (
    "--preset=mqar/small-linear_attention",
    "--num_steps=40",
    "--warmup_steps=1",
    "--batch_size=8",
    "--accumulation_steps=2",
    "--embed_dropout=0.1",
    "--d_model=16",
    "--num_layers=2",
    "--num_train_examples=64",
    "--num_eval_examples=16",
    "--checkpoint_every_steps=5",
    "--eval_every_steps=10",
    "--log_every_steps=1",
    "--mesh_data=1",
)
NUM_STEPS = 40
MAIN = (sys.executable, "-m", "experiments.main")
LONGEST = 300.0  # seconds; a process that takes longer has failed


class Runs:
    """Starts runs below a scratch folder; the unbroken one is made once."""

    def __init__(self, scratch: Path, rng: np.random.Generator):
        self._scratch, self.rng = scratch, rng
        self._number = 0
        # The first run fills the cache of compiled programs, the second one is timed.
        self._finish(self.new_workdir())
        self._whole = self.new_workdir()
        began = time.monotonic()
        self._finish(self._whole)
        self.seconds = time.monotonic() - began
        self._wanted = self._result(self._whole)

    def new_workdir(self) -> Path:
        """A directory that no run had yet."""
        self._number += 1
        return self._scratch / f"run{self._number}"

    def start(
        self, workdir: Path, limit_bytes: int | None = None, *arguments: str
    ) -> subprocess.Popen:
        """The run, in a process; with `limit_bytes` no file of it can be larger."""
        cache = f"--compilation_cache_dir={self._scratch / 'cache'}"
        process = subprocess.Popen(
            [*MAIN, f"--workdir={workdir}", *ARGUMENTS, cache, *arguments],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if limit_bytes is not None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        return process

    def random_moment(self) -> float:
        """Seconds from a run's start, anywhere in it."""
        return float(self.rng.uniform(0, self.seconds))

    def _finish(self, workdir: Path) -> str:
        process = self.start(workdir)
        _, errors = process.communicate(timeout=LONGEST)
        if process.returncode:
            raise RuntimeError(
                f"a run left alone ended with {process.returncode}: {errors[-2000:]}"
            )
        return errors

    def _result(self, workdir: Path) -> tuple:
        """Bytes of every array, where the data stands, rows without what the clock decides."""
        config = read_run_config(workdir)
        trainer = Trainer(config.model, config.train, jax.devices()[:1])
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            if checkpoints.newest() != NUM_STEPS:
                return ()
            state = checkpoints.restore(NUM_STEPS, trainer.abstract_state)
            position = checkpoints.facts(NUM_STEPS)["data_position"]
        rows = [
            {k: v for k, v in row.items() if not k.startswith("perf/")}
            for row in read_metrics(workdir / "metrics.jsonl")
        ]
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)], position, rows

    def ends_like_the_whole(self, workdir: Path) -> str | None:
        """Starts the run once more and leaves it alone; what differs at its end, or None."""
        try:
            self._finish(workdir)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return str(error)
        return None if self._result(workdir) == self._wanted else f"{workdir.name}: another result"


def _disturbed(
    runs: Runs, count: int, name: str, disturb: Callable[[subprocess.Popen], str | None]
) -> Outcome:
    """`disturb` hits `count` processes, about three in a row on the same directory."""
    outcome = Outcome(name)
    while outcome.caused < count:
        workdir = runs.new_workdir()
        problems = []
        for _ in range(min(count - outcome.caused, int(runs.rng.integers(1, 5)))):
            process = runs.start(workdir)
            problems.append(disturb(process))
            process.stderr.close()
            outcome.caused += 1
        problems = [p for p in (*problems, runs.ends_like_the_whole(workdir)) if p]
        outcome.lost += len(problems)
        outcome.problems += problems
    return outcome


def kill(runs: Runs, count: int) -> Outcome:
    """SIGKILL at moments anywhere in a run, from its import to its last evaluation."""

    def disturb(process: subprocess.Popen) -> None:
        time.sleep(runs.random_moment())
        process.kill()
        process.wait()

    return _disturbed(runs, count, "kill -9 at a random moment", disturb)


def terminate(runs: Runs, count: int) -> Outcome:
    """SIGTERM or SIGINT anywhere after the imports; the code must be the documented one."""

    def disturb(process: subprocess.Popen) -> str | None:
        number = signal.SIGTERM if runs.rng.integers(2) else signal.SIGINT
        # Before the handlers are there a signal ends the process as always; nothing is done yet.
        time.sleep(0.5 * runs.seconds + 0.5 * runs.random_moment())
        process.send_signal(number)
        _, errors = process.communicate(timeout=LONGEST)
        allowed = (0, INTERRUPTED, -number)  # 0: it was finished
        if process.returncode not in allowed:
            return f"{signal.Signals(number).name}: exit code {process.returncode}: {errors[-500:]}"
        return None

    return _disturbed(runs, count, "SIGTERM or SIGINT at a random moment", disturb)


def full_disk(runs: Runs, count: int) -> Outcome:
    """No file can grow beyond a random size: refused, or ended with the documented code."""
    outcome = Outcome("files cannot grow (disk full)")
    for _ in range(count):
        workdir = runs.new_workdir()
        process = runs.start(workdir, limit_bytes=int(runs.rng.integers(2_000, 20_000)))
        _, errors = process.communicate(timeout=LONGEST)
        outcome.caused += 1
        problem = runs.ends_like_the_whole(workdir)
        # Orbax logs traces of its own; the run's last word must be its own too.
        if process.returncode not in (1, IO_ERROR) or "\nerror: " not in errors:
            problem = f"exit code {process.returncode}: {errors[-500:]}"
        outcome.add_problem(problem)
    return outcome


def two_processes(runs: Runs, count: int) -> Outcome:
    """A signal to one of two processes: both save the same step, and go on together after."""
    outcome = Outcome("SIGTERM to one of two processes")

    def start(workdir: Path) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        flags = ("--mesh_data=2", "--num_steps=60")
        return [
            runs.start(workdir, None, *flags, f"--distributed={address},2,{i}") for i in range(2)
        ]

    for _ in range(count):
        workdir = runs.new_workdir()
        pair = start(workdir)
        rows = workdir / "metrics.jsonl"
        while not (rows.exists() and read_metrics(rows)) and pair[0].poll() is None:
            time.sleep(0.02)
        pair[int(runs.rng.integers(2))].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=LONGEST)[1] for process in pair]
        steps = [re.findall(r"error: interrupted; step (\d+) is saved", e) for e in errors]
        codes = [process.returncode for process in pair]
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            saved = [[str(checkpoints.newest())]] * 2
        after = start(workdir)
        for process in after:
            process.communicate(timeout=LONGEST)
        codes += [process.returncode for process in after]
        outcome.caused += 1
        if codes != [INTERRUPTED, INTERRUPTED, 0, 0] or steps != saved:
            outcome.add_problem(f"exit codes {codes}, steps {steps}, saved {saved[0]}")
    return outcome


def not_finite(runs: Runs, count: int) -> Outcome:
    """Weights that overflow: the run stops with its code, and the step can be run again."""
    outcome = Outcome("losses that are not finite")
    for _ in range(count):
        workdir = runs.new_workdir()
        process = runs.start(workdir, None, "--learning_rate=1e38", "--max_skipped_steps=3")
        _, errors = process.communicate(timeout=LONGEST)
        command = [sys.executable, "-m", "experiments.replay", f"--workdir={workdir}"]
        again = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
        outcome.caused += 1
        if process.returncode != NOT_FINITE or "3 skipped in a row" not in errors:
            outcome.add_problem(f"exit code {process.returncode}: {errors[-500:]}")
        elif again.returncode or not json.loads(again.stdout)["not_finite"]:
            outcome.add_problem(f"replay: {again.returncode} {again.stdout}{again.stderr[-500:]}")
    return outcome


def second_run(runs: Runs, count: int) -> Outcome:
    """A second run in a directory that is in use is refused; the first one goes on."""
    outcome = Outcome("a second run in the same directory")
    for _ in range(count):
        workdir = runs.new_workdir()
        first = runs.start(workdir)
        while not (workdir / "lock").exists() and first.poll() is None:
            time.sleep(0.01)
        second = runs.start(workdir)
        errors = [p.communicate(timeout=LONGEST)[1] for p in (second, first)]
        outcome.caused += 1
        problem = runs.ends_like_the_whole(workdir)
        # A second one that comes after the end of the first finds nothing to do.
        if second.returncode and "in use by another run" not in errors[0]:
            problem = f"second run: exit code {second.returncode}: {errors[0][-500:]}"
        if first.returncode:
            problem = f"first run: exit code {first.returncode}: {errors[1][-500:]}"
        outcome.add_problem(problem)
    return outcome
