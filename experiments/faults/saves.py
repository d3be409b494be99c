# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Saves without end, to be killed: python -m experiments.faults.saves DIRECTORY LAST_STEP

What is kept is what is promised after every kill, and there is a checkpoint at every moment.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from deltanet_jax.train.checkpoint import Checkpoints
from experiments.faults.damage import Position, make_state
from experiments.faults.outcome import Outcome

KEEP, KEEP_EVERY = 3, 100
SAVES_A_KILL = 40  # about


def keep_policy(scratch: Path, rng: np.random.Generator, kills: int) -> Outcome:
    """A thousand saves for 25 kills."""
    outcome = Outcome("kill -9 among saves of which the newest three and every 100th are kept")
    directory, last = scratch / "kept", kills * SAVES_A_KILL
    checkpoints = Checkpoints(directory)
    for number in range(kills + 1):
        command = [sys.executable, "-m", "experiments.faults.saves", str(directory), str(last)]
        process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        begun = max(checkpoints.steps, default=0)
        due = begun + int(rng.integers(1, 2 * SAVES_A_KILL)) if number < kills else last
        while process.poll() is None and max(checkpoints.steps, default=0) < due:
            if begun and checkpoints.newest() is None:
                outcome.add_problem(f"after step {begun}: no checkpoint")
            time.sleep(0.01)
        if number < kills:
            time.sleep(rng.uniform(0, 0.1))  # so that it hits any part of a save
            process.kill()
            outcome.caused += 1
        process.wait()
        steps, newest = checkpoints.steps, checkpoints.newest()
        wanted = [_kept(newest, n) for n in (KEEP, KEEP + 1)]
        if newest > KEEP and steps not in wanted[: 1 + (number < kills)]:
            outcome.add_problem(f"kept {steps}")
    left = sorted(path.name for path in directory.iterdir())
    if left != sorted(map(str, _kept(last, KEEP))):
        outcome.add_problem(f"left in the end: {left}")
    return outcome


def _kept(newest: int, keep: int) -> list[int]:
    for_good = range(KEEP_EVERY, newest - keep + 1, KEEP_EVERY)
    return [*for_good, *range(newest - keep + 1, newest + 1)]


def main() -> None:
    directory, last = Path(sys.argv[1]), int(sys.argv[2])
    with Checkpoints(directory, KEEP, keep_every=KEEP_EVERY) as checkpoints:
        for step in range((checkpoints.newest() or 0) + 1, last + 1):
            checkpoints.save(step, make_state(step, 400), Position())


if __name__ == "__main__":
    main()
