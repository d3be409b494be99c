# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A grid of runs as one program:

    python -m experiments.sweep --preset=NAME --workdir=DIR --learning_rates=1e-4,1e-3 --seeds=0,1

Learning rates, weight decays and seeds are trained side by side on one device
(deltanet_jax/train/sweep.py); the options of a run are those of experiments.main. The same command
on the same workdir resumes. `runs.jsonl` there has a row for every run and evaluation; the best
learning rate and weight decay are printed at the end.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from deltanet_jax.train.loop import enter_workdir
from deltanet_jax.train.sweep import Member, RunTable, check_one_device, train_members
from experiments import platform
from experiments.flags import (
    define_compilation_flags,
    define_preset,
    define_run_flags,
    define_sweep_flags,
    define_workdir,
    explain,
    members_from_flags,
    run_config_from_flags,
)
from experiments.logs import quiet_logs
from experiments.run_config import RunConfig
from pallas_kernels._common.timing import machine_info


def sweep(config: RunConfig, members: list[Member], workdir: Path, at_once: int = 0) -> dict:
    """Trains `members`, `at_once` together (0: all), and returns `best`.

    Raises:
        ValueError: the config does not fit, or `workdir` holds another sweep.
    """
    check_one_device(config.train)
    task = config.task.make()
    at_once = at_once or len(members)
    record = {
        "run": config.to_dict(),
        "members": [member._asdict() for member in members],
        "members_at_once": at_once,
    }
    with contextlib.ExitStack() as resources:
        enter_workdir(workdir, record, machine_info(), 0, resources)
        for start in range(0, len(members), at_once):
            group = members[start : start + at_once]
            name = f"runs-{start}-{start + len(group) - 1}"
            train_members(config.model, config.train, task, group, workdir, name=name)
    return best(RunTable(workdir / "runs.jsonl").rows(), config)


def best(rows: list[dict], config: RunConfig) -> dict[str, Any]:
    """The learning rate and weight decay with the highest mean score over seeds, at the last step.

    A run whose loss is not finite makes its learning rate and weight decay the worst.

    Args:
        rows: a sweep's table.
        config: of its runs; says which figure is the score.
    Returns:
        learning_rate, weight_decay, the score's name, its mean and the scores by seed.
    """
    name = config.task.score_name
    scores: dict[tuple[float, float], dict[int, float | None]] = {}
    for row in rows:
        if row["step"] == config.train.num_steps:
            score = None if row["loss"] is None else row[name]
            values = scores.setdefault((row["learning_rate"], row["weight_decay"]), {})
            values[row["seed"]] = score

    def mean(values: dict[int, float | None]) -> float:
        if None in values.values():
            return float("-inf")
        return sum(values.values()) / len(values)

    learning_rate, weight_decay = max(scores, key=lambda pair: mean(scores[pair]))
    by_seed = scores[learning_rate, weight_decay]
    return {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "score_name": name,
        "mean_score": None if None in by_seed.values() else mean(by_seed),
        "scores": {str(seed): score for seed, score in sorted(by_seed.items())},
    }


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        platform.configure_from_flags(values)
        config = run_config_from_flags(values.flag_values_dict())
        members = members_from_flags(values.flag_values_dict(), config)
        result = sweep(config, members, Path(values.workdir), values.members_at_once)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    print(json.dumps(result))


if __name__ == "__main__":
    define_workdir()
    define_preset()
    define_run_flags()
    define_compilation_flags()
    define_sweep_flags()
    app.run(main)
