# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Several runs as one program: learning rates, weight decays and seeds along an axis of `vmap`.

A small model leaves most of a GPU idle; its grid of hyperparameters fills it. All runs see the same
batches, as runs of their own with the same data seed do.
"""

import itertools
import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deltanet_jax.model import ModelConfig
from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train.checkpoint import Checkpoints, with_shardings
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.evaluate import evaluate_members
from deltanet_jax.train.metrics import Progress, keep_rows, read_metrics
from deltanet_jax.train.optimizer import check_param_dtype, make_optimizer
from deltanet_jax.train.step import (
    TrainState,
    init_state,
    model_graph,
    sum_and_predict,
    train_step,
)
from deltanet_jax.train.task import Batch, Task

logger = logging.getLogger("deltanet_jax")

STEPS_A_CALL = 10


class Member(NamedTuple):
    """What one run of a sweep has for itself; arrays [M] where it stands for all of them."""

    learning_rate: float
    weight_decay: float
    seed: int


class Goal(NamedTuple):
    """What ends a sweep early: a figure of the task, and the value that is enough."""

    name: str
    value: float

    def reached(self, members: Sequence[Member], results: Sequence[dict]) -> bool:
        """Whether some learning rate and weight decay have it with every seed among `members`."""
        enough: dict[tuple[float, float], bool] = {}
        for member, result in zip(members, results, strict=True):
            figure = result[self.name]
            key = member.learning_rate, member.weight_decay
            good = figure is not None and figure >= self.value
            enough[key] = enough.get(key, True) and good
        return any(enough.values())


def grid(
    learning_rates: Sequence[float], weight_decays: Sequence[float], seeds: Sequence[int]
) -> list[Member]:
    """Every combination, seeds varying fastest."""
    return list(itertools.starmap(Member, itertools.product(learning_rates, weight_decays, seeds)))


class Runs:
    """The compiled steps of `members`, side by side on one device.

    Attributes:
        init: () -> TrainState, every array with a leading axis [M].
        train_steps: (state, batches, count) -> (state, losses [M] of the last step): the first
            `count` of STEPS_A_CALL stacked batches, one after the other. The old state's memory is
            reused.
        eval_step: (weights, batch) -> (Sums [M], predictions [M, B, N] int32).
    """

    def __init__(self, model: ModelConfig, config: TrainConfig, members: Sequence[Member]):
        graph = model_graph(model)
        columns = Member(*(jnp.asarray(column) for column in zip(*members, strict=True)))
        # The logits of all members together are as many as a run of its own may have.
        rows = config.part_size * len(members)
        loss_sizes = {"positions": max(1, config.loss_chunk_tokens // rows)}

        def optimizer(member: Member) -> optax.GradientTransformation:
            return make_optimizer(
                config.optimizer,
                config.num_steps,
                learning_rate=member.learning_rate,
                weight_decay=member.weight_decay,
            )

        def init(member: Member) -> TrainState:
            return init_state(model, optimizer(member), member.seed)

        def step(member: Member, state: TrainState, batch: Batch):
            state, metrics = train_step(
                graph,
                optimizer(member),
                loss_sizes,
                config.accumulation_steps,
                config.guard_sizes,
                state,
                batch,
            )
            return state, metrics["loss"].astype(jnp.float32)

        def train_steps(columns: Member, state: TrainState, batches: Batch, count):
            def one(i, carry):
                batch = {k: x[i] for k, x in batches.items()}
                return jax.vmap(step, in_axes=(0, 0, None))(columns, carry[0], batch)

            losses = jnp.zeros(len(members), jnp.float32)
            return jax.lax.fori_loop(0, count, one, (state, losses))

        def evaluate_batch(weights: dict, batch: Batch):
            return sum_and_predict(graph, loss_sizes, weights, batch)

        self._columns = columns
        self._init = jax.jit(jax.vmap(init))
        self._train_steps = jax.jit(train_steps, donate_argnums=1)
        self.eval_step = jax.jit(jax.vmap(evaluate_batch, in_axes=(0, None)))

    def init(self) -> TrainState:
        """See the class."""
        return self._init(self._columns)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and places of the state."""
        abstract = jax.eval_shape(self._init, self._columns)
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return with_shardings(abstract, jax.tree.map(lambda _: here, abstract))

    def train_steps(
        self, state: TrainState, batches: Sequence[Batch]
    ) -> tuple[TrainState, jax.Array]:
        """See the class; for 1 .. STEPS_A_CALL batches."""
        # One shape for any number of batches, so one program; those filled in are not looked at.
        filled = [*batches, *[batches[-1]] * (STEPS_A_CALL - len(batches))]
        stacked = {k: np.stack([batch[k] for batch in filled]) for k in batches[0]}
        return self._train_steps(self._columns, state, jax.device_put(stacked), len(batches))


class RunTable:
    """`runs.jsonl`: a row for every run and evaluation, its figures beside its member's values.

    A figure that is not finite is null. "seconds" is the wall clock that the runs side by side had
    taken together until then.
    """

    def __init__(self, path: Path):
        self._path = path

    def rows(self) -> list[dict]:
        """All rows, in the order in which they were written."""
        return read_metrics(self._path) if self._path.exists() else []

    def finished(self, members: Sequence[Member], num_steps: int, goal: Goal | None) -> bool:
        """Whether `members` have their last evaluation, or one that reached the goal."""
        found = [[row for row in self.rows() if _is_of(row, member)] for member in members]
        if not all(found):
            return False
        last = [max(rows, key=lambda row: row["step"]) for rows in found]
        if len({row["step"] for row in last}) > 1:  # cut off while an evaluation was written
            return False
        return last[0]["step"] == num_steps or (goal is not None and goal.reached(members, last))

    def forget_after(self, step: int, members: Sequence[Member]) -> None:
        """Drops what `members` reported after `step`, where they go on from."""
        if self._path.exists():
            keep_rows(
                self._path,
                lambda row: row["step"] <= step or not _is_any_of(row, members),
            )

    def seconds(self, members: Sequence[Member]) -> float:
        """What was spent on `members` until their last row; 0 where that is not recorded."""
        return max(
            (row.get("seconds", 0.0) for row in self.rows() if _is_any_of(row, members)),
            default=0.0,
        )

    def write(
        self, step: int, seconds: float, members: Sequence[Member], results: Sequence[dict]
    ) -> None:
        """Appends the rows of one evaluation of all `members`."""
        with self._path.open("a") as file:
            for member, result in zip(members, results, strict=True):
                finite = {k: v if math.isfinite(v) else None for k, v in result.items()}
                row = {**member._asdict(), "step": step, "seconds": round(seconds, 1), **finite}
                file.write(json.dumps(row) + "\n")


def _is_of(row: dict, member: Member) -> bool:
    return all(row.get(name) == value for name, value in member._asdict().items())


def _is_any_of(row: dict, members: Sequence[Member]) -> bool:
    return any(_is_of(row, member) for member in members)


def train_members(
    model: ModelConfig,
    config: TrainConfig,
    task: Task,
    members: Sequence[Member],
    workdir: Path,
    *,
    name: str = "sweep",
    goal: Goal | None = None,
    began: float | None = None,
) -> None:
    """Trains `members` together to `config.num_steps`; goes on from their newest checkpoint.

    Args:
        model, config, task: what to train, how, on what. Learning rate, weight decay and seed are
            the members'.
        members: which runs; finished ones are left alone if all of them are.
        workdir: directory of runs.jsonl and, for each group of members, checkpoints.
        name: the progress bar's, and the folder of this group's checkpoints.
        goal: ends all of them at the evaluation that reaches it.
        began: `time.perf_counter()` from which the table's seconds count; None is the call.
    Raises:
        ValueError: a mesh of several devices; weights in float16.
        CheckpointError: a checkpoint could not be written.
    """
    began = time.perf_counter() if began is None else began
    check_one_device(config)
    check_param_dtype(model.param_dtype)
    rows = workdir / "runs.jsonl"
    table = RunTable(rows)
    if table.finished(members, config.num_steps, goal):
        return
    runs = Runs(model, config, members)
    data = iter(task.train_dataset(config.batch_size))
    with Checkpoints(workdir / "checkpoints" / name, 1, records=(rows,)) as checkpoints:
        step = checkpoints.newest()
        if step is None:
            step, state = 0, runs.init()
        else:
            state = checkpoints.restore(step, runs.abstract_state(), data)
            logger.info("resumed %s at step %d", name, step)
        table.forget_after(step, members)
        began -= table.seconds(members)
        progress = Progress(name, config.num_steps, step)
        losses = None
        try:
            while step < config.num_steps:
                stop = min(step + STEPS_A_CALL, *_next_stops(config, step))
                batches = [next(data) for _ in range(stop - step)]
                jax.block_until_ready(losses)  # of the call before: one at a time is ahead
                state, losses = runs.train_steps(state, batches)
                step = stop
                progress.update(step, f"{len(members)} runs")
                last = step == config.num_steps
                if last or _falls_on(step, config.eval_every_steps):
                    results = evaluate_members(
                        runs.eval_step, state.weights, task, config.part_size
                    )
                    ended = np.asarray(state.guard.in_row) >= config.max_skipped_steps
                    results = without_figures(results, ended)
                    table.write(step, time.perf_counter() - began, members, results)
                    if goal is not None and goal.reached(members, results):
                        return
                if last or _falls_on(step, config.checkpoint_every_steps):
                    checkpoints.save(step, state, data)
        finally:
            progress.close()


def without_figures(results: Sequence[dict], ended: Sequence[bool]) -> list[dict]:
    """`results`, with NaN for every figure of the members that `ended`.

    A run of its own stops after `max_skipped_steps`; in a sweep its weights stand still instead,
    and what they are worth says nothing about its learning rate.
    """
    return [
        dict.fromkeys(result, math.nan) if end else result
        for result, end in zip(results, ended, strict=True)
    ]


def check_one_device(config: TrainConfig) -> None:
    """Raises ValueError if `config` asks for a mesh of several devices."""
    for axis, size in config.mesh.to_dict().items():
        if size not in (1, getattr(MeshConfig(), axis)):
            raise ValueError(f"mesh_{axis}: wanted 1, as a sweep runs on one device, got {size}")


def _falls_on(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _next_stops(config: TrainConfig, step: int) -> list[int]:
    """The steps after `step` at which something is to be done."""
    cadences = (config.eval_every_steps, config.checkpoint_every_steps)
    return [config.num_steps, *((step // n + 1) * n for n in cadences if n)]
