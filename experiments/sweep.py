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
import time
from pathlib import Path
from typing import Any

from absl import flags

from deltanet_jax.train.loop import enter_workdir
from deltanet_jax.train.sweep import Goal, Member, RunTable, check_one_device, train_members
from experiments import platform
from experiments.command import run
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


def _complete(old: dict) -> dict:
    """The record of a sweep begun by an earlier version, with what is new since."""
    return old | {"run": RunConfig.completed(old.get("run"))}


def sweep(
    config: RunConfig,
    members: list[Member],
    workdir: Path,
    at_once: int = 0,
    stop_score: float | None = None,
) -> dict:
    """Trains `members`, `at_once` together (0: all), and returns `best`.

    With `stop_score`, those together end as soon as one of their learning rates and weight decays
    has reached it with every seed: the best of the grid is known then.

    Raises:
        ValueError: the config does not fit, or `workdir` holds another sweep.
    """
    began = time.perf_counter()
    check_one_device(config.train)
    task = config.task.make()
    at_once = at_once or len(members)
    record = {
        "run": config.to_dict(),
        "members": [member._asdict() for member in members],
        "members_at_once": at_once,
        "stop_score": stop_score,
    }
    goal = None if stop_score is None else Goal(config.task.selection_name, stop_score)
    with contextlib.ExitStack() as resources:
        enter_workdir(workdir, record, machine_info(), 0, resources, _complete)
        for start in range(0, len(members), at_once):
            group = members[start : start + at_once]
            name = f"runs-{start}-{start + len(group) - 1}"
            train_members(
                config.model,
                config.train,
                task,
                group,
                workdir,
                name=name,
                goal=goal,
                began=began,
            )
            began = time.perf_counter()
    return best(RunTable(workdir / "runs.jsonl").rows(), config)


def final_rows(rows: list[dict], config: RunConfig) -> list[dict]:
    """Of every run the row that it counts with: its last, or its best where the task says so."""
    by_member: dict[Member, list[dict]] = {}
    for row in rows:
        by_member.setdefault(Member(*(row[name] for name in Member._fields)), []).append(row)
    name = config.task.selection_name
    if config.task.early_stopping:
        return [max(found, key=lambda row: _figure(row, name)) for found in by_member.values()]
    return [max(found, key=lambda row: row["step"]) for found in by_member.values()]


def _figure(row: dict, name: str) -> float:
    """A figure of a row; of a run whose loss is not finite the worst."""
    return float("-inf") if row["loss"] is None or row[name] is None else row[name]


def best(rows: list[dict], config: RunConfig) -> dict[str, Any]:
    """The learning rate and weight decay of the runs that are best, on a mean over seeds.

    A run whose loss is not finite makes its learning rate and weight decay the worst.

    Args:
        rows: a sweep's table.
        config: of its runs; says by which figure runs are compared and which is the score.
    Returns:
        learning_rate, weight_decay, the score's name, its mean, and score and step by seed.
    """
    groups: dict[tuple[float, float], list[dict]] = {}
    for row in final_rows(rows, config):
        groups.setdefault((row["learning_rate"], row["weight_decay"]), []).append(row)

    def mean(pair: tuple[float, float]) -> float:
        figures = [_figure(row, config.task.selection_name) for row in groups[pair]]
        return sum(figures) / len(figures)

    chosen = max(groups, key=mean)
    by_seed = sorted(groups[chosen], key=lambda row: row["seed"])
    name = config.task.score_name
    scores = {str(row["seed"]): None if row["loss"] is None else row[name] for row in by_seed}
    return {
        "learning_rate": chosen[0],
        "weight_decay": chosen[1],
        "score_name": name,
        "mean_score": None if None in scores.values() else sum(scores.values()) / len(scores),
        "scores": scores,
        "steps": {str(row["seed"]): row["step"] for row in by_seed},
    }


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        platform.configure_from_flags(values)
        config = run_config_from_flags(values.flag_values_dict())
        members = members_from_flags(values.flag_values_dict(), config)
        result = sweep(
            config, members, Path(values.workdir), values.members_at_once, values.stop_score
        )
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    print(json.dumps(result))


if __name__ == "__main__":
    define_workdir()
    define_preset()
    define_run_flags()
    define_compilation_flags()
    define_sweep_flags()
    run(main)
