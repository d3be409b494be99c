# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs to disturb, each a process as a user starts it, and what they must end with."""

import collections
import dataclasses
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np

from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.metrics import read_metrics
from experiments.faults.outcome import Outcome
from experiments.run_config import read_run_config

# Dropout, two parts a batch, evaluations and saves in between; an epoch is eight steps.
CHECKPOINT_EVERY = 5
NUM_STEPS = 40
ARGUMENTS = (
    "--preset=mqar/small-linear_attention",
    f"--num_steps={NUM_STEPS}",
    "--warmup_steps=1",
    "--batch_size=8",
    "--accumulation_steps=2",
    "--embed_dropout=0.1",
    "--d_model=16",
    "--num_layers=2",
    "--num_train_examples=64",
    "--num_eval_examples=16",
    f"--checkpoint_every_steps={CHECKPOINT_EVERY}",
    "--eval_every_steps=10",
    "--log_every_steps=1",
    "--mesh_data=1",
)
MAIN = ("experiments.main",)
LONGEST = 300.0  # seconds; a process that takes longer has failed
# What users have in their environment and must find nowhere else.
SECRET = "canary-5b1e77d0"
SECRETS = {"HF_TOKEN": SECRET, "WANDB_API_KEY": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}


@dataclasses.dataclass
class Process:
    """A run's process; all that it says goes into a file, which another process writes.

    That one is under no limit of this one's.
    """

    popen: subprocess.Popen
    writer: subprocess.Popen
    said: Path

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def ends_within(self, seconds: float) -> bool:
        """Waits for so long, less if it ends."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> tuple[int, str]:
        """Waits; its exit code (minus a signal's number) and all that it said."""
        if not self.ends_within(LONGEST):
            self.popen.kill()
            self.popen.wait()
            self.writer.wait()
            return 1, f"still there after {LONGEST:.0f} s"
        self.writer.wait()
        return self.popen.returncode, self.said.read_text(errors="replace")


def limit_files(process_id: int, limit_bytes: int | None = None) -> None:
    """Lets no file of the process be larger; None is as large as this process may have them."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    limits = (most if limit_bytes is None else limit_bytes, most)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, limits)


class Runs:
    """Starts runs below a scratch folder; the unbroken one is made once.

    Several threads may use it.

    Attributes:
        started: processes.
    """

    def __init__(self, scratch: Path, rng: np.random.Generator):
        self._scratch, self.rng = scratch / "runs", rng
        self._scratch.mkdir()
        self._lock = threading.Lock()
        self._number = self.started = 0
        self._seconds: collections.deque[float] = collections.deque(maxlen=5)
        self._finish(self.new_workdir())  # which fills the cache of compiled programs
        self._seconds.clear()
        whole = self.new_workdir()
        self._finish(whole)
        self._wanted = self._result(whole)

    def new_workdir(self) -> Path:
        """A directory that no run had yet."""
        with self._lock:
            self._number += 1
            return self._scratch / f"run{self._number}"

    def start(
        self,
        workdir: Path,
        *arguments: str,
        module: tuple[str, ...] = MAIN,
        limit_bytes: int | None = None,
    ) -> Process:
        """The run, in a process with a hash seed of its own, and secrets in its environment.

        `module` and its arguments run it; with `limit_bytes` no file of it can be larger.
        """
        with self._lock:
            self.started += 1
            said = self._scratch / f"said{self.started}.txt"
        cache = f"--compilation_cache_dir={self._scratch / 'cache'}"
        settings = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "PYTHONHASHSEED": str(self.rng.integers(2**32)),
        }
        with said.open("wb") as file:
            writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        with writer.stdin as pipe:
            process = subprocess.Popen(
                [sys.executable, "-m", *module, f"--workdir={workdir}", *ARGUMENTS, cache]
                + list(arguments),
                env=os.environ | settings | SECRETS,
                stdout=pipe,
                stderr=subprocess.STDOUT,
            )
        if limit_bytes is not None:
            limit_files(process.pid, limit_bytes)
        return Process(process, writer, said)

    def start_pair(self, workdir: Path) -> list[Process]:
        """A run of two processes."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        flags = ("--mesh_data=2", "--num_steps=60")
        return [self.start(workdir, *flags, f"--distributed={address},2,{i}") for i in range(2)]

    @property
    def seconds(self) -> float:
        """That a whole run takes: the longest of the last ones that were left alone."""
        return max(self._seconds)

    def random_moment(self) -> float:
        """Seconds from a run's start, anywhere in it."""
        return float(self.rng.uniform(0, self.seconds))

    def _finish(self, workdir: Path) -> None:
        began = time.monotonic()
        code, said = self.start(workdir).end()
        if code:
            raise RuntimeError(f"a run left alone ended with {code}: {said[-2000:]}")
        self._seconds.append(time.monotonic() - began)

    def _result(self, workdir: Path) -> tuple:
        """Bytes of every array, where the data stands, rows without what the clock decides."""
        config = read_run_config(workdir)
        trainer = Trainer(config.model, config.train, jax.devices()[:1])
        # Orbax does not promise to be used by several threads.
        with self._lock, Checkpoints(workdir / "checkpoints") as checkpoints:
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
        except RuntimeError as error:
            return str(error)
        return self.unlike_the_whole(workdir)

    def unlike_the_whole(self, workdir: Path) -> str | None:
        """What differs in a run that has ended by itself, or None."""
        if left := [p.name for p in (workdir / "checkpoints").iterdir() if not p.name.isdecimal()]:
            return f"{workdir.name}: left over: {', '.join(left)}"
        return None if self._result(workdir) == self._wanted else f"{workdir.name}: another result"

    def lost_too_much(self, workdir: Path) -> str | None:
        """Whether a run that ended just now lost more than it may, or None.

        That is the steps since the newest checkpoint, and those done while it was being written:
        a save begins once the one before is on disk, so never as many as two intervals.
        """
        rows = workdir / "metrics.jsonl"
        done = max((row["step"] for row in read_metrics(rows)), default=0) if rows.exists() else 0
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            saved = checkpoints.newest() or 0
        if done - saved > 2 * CHECKPOINT_EVERY:
            return f"{workdir.name}: {done} steps done, {saved} saved"
        return None


def find_secrets(folder: Path, outcome: Outcome) -> Outcome:
    """Every file below `folder` that holds SECRET is a loss."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and SECRET.encode() in path.read_bytes():
            outcome.add_problem(f"{path.relative_to(folder)}: holds a secret of the environment")
    return outcome
