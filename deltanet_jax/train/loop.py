# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The only training loop: data in, steps, metrics and checkpoints out.

The same call on the same `workdir` goes on where the last one stopped, bit for bit.
"""

import functools
import json
import logging
import math
import time
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from deltanet_jax import sharding
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.checkpoint import Checkpoints, with_shardings
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.evaluate import evaluate, put_batch
from deltanet_jax.train.metrics import MetricsLog, Progress
from deltanet_jax.train.optimizer import make_optimizer
from deltanet_jax.train.step import (
    TrainState,
    init_state,
    model_graph,
    state_shardings,
    sum_losses,
    train_step,
)
from deltanet_jax.train.task import Task
from pallas_kernels._common.timing import machine_info

logger = logging.getLogger("deltanet_jax")


class Trainer:
    """The compiled steps of a run and where its arrays live.

    Attributes:
        mesh: over all devices.
        abstract_state: shapes, dtypes and shardings of the train state.
        init: () -> TrainState.
        train_step: (state, batch) -> (state, metrics); the old state's memory is reused.
        eval_step: (weights, batch) -> Sums.
    """

    def __init__(self, model_config: ModelConfig, config: TrainConfig, devices=None):
        self.mesh = sharding.make_mesh(config.mesh, devices)
        sharding.check_batch_size(config.batch_size, config.accumulation_steps, self.mesh)
        rows = config.part_size // sharding.batch_ways(self.mesh)
        loss_sizes = {
            "positions": -(-config.loss_chunk_tokens // rows),
            "pieces": self.mesh.shape[sharding.SEQUENCE],
        }
        graph = model_graph(model_config)
        optimizer = make_optimizer(config.optimizer, config.num_steps)
        init = functools.partial(init_state, model_config, optimizer, config.seed)
        abstract = jax.eval_shape(init)
        shardings = state_shardings(abstract, optimizer, self.mesh)
        self.abstract_state = with_shardings(abstract, shardings)
        self.init = jax.jit(init, out_shardings=shardings)
        step = functools.partial(
            train_step, graph, optimizer, loss_sizes, config.accumulation_steps
        )
        self.train_step = jax.jit(
            self._on_mesh(step), out_shardings=(shardings, None), donate_argnums=0
        )
        self.eval_step = jax.jit(self._on_mesh(functools.partial(sum_losses, graph, loss_sizes)))

    def _on_mesh(self, function):
        """`function` for whole arrays; what must know the mesh (operators) finds it there."""

        def run(*args):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*args)

        return run


def train(
    model_config: ModelConfig,
    config: TrainConfig,
    task: Task,
    workdir: Path,
    *,
    record: dict | None = None,
    name: str = "train",
) -> dict[str, float]:
    """Trains to `config.num_steps`, resuming from the newest checkpoint in `workdir`.

    In a run of several processes all of them call this, on a `workdir` that all of them see; the
    first one writes the records and shows progress.

    Args:
        model_config, config, task: what to train, how, on what.
        workdir: directory of config.json, machine.json, metrics.jsonl, tensorboard/, checkpoints/.
        record: what to write as config.json; by default the model's and the training's config.
            A resumed run must bring the same.
        name: the progress bar's.
    Returns:
        The last evaluation: "loss", "accuracy" and the task's own figures.
    Raises:
        ValueError: the config does not fit the devices, or differs from the one in `workdir`.
        FloatingPointError: the loss or gradient of a step is NaN or infinite; names the step.
            Nothing after the last finite checkpoint is saved.
    """
    if task.vocab_size != model_config.vocab_size:
        raise ValueError(
            f"vocab_size: wanted the task's {task.vocab_size}, got {model_config.vocab_size}"
        )
    trainer = Trainer(model_config, config)
    if record is None:
        record = {"model": model_config.to_dict(), "train": config.to_dict()}
    _write_record(workdir, record)

    data = iter(task.train_dataset(config.batch_size))
    with Checkpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints:
        step = checkpoints.latest_step
        if step is None:
            step, state = 0, trainer.init()
        else:
            state = checkpoints.restore(step, trainer.abstract_state, data)
            logger.info("resumed %s at step %d", workdir, step)
        metrics_log = MetricsLog(workdir, step)
        progress = Progress(name, config.num_steps, step)
        try:
            state = _run(
                trainer, config, task, state, step, data, checkpoints, metrics_log, progress
            )
            progress.close()
            result = evaluate(
                trainer.eval_step, state.weights, task, config.part_size, trainer.mesh
            )
            if step < config.num_steps:
                metrics_log.write(config.num_steps, _named("eval", result))
        finally:
            progress.close()
            metrics_log.close()
    return result


def _run(
    trainer: Trainer,
    config: TrainConfig,
    task: Task,
    state: TrainState,
    step: int,
    data,
    checkpoints: Checkpoints,
    metrics_log: MetricsLog,
    progress: Progress,
) -> TrainState:
    reader = _MetricsReader(config, metrics_log, progress, step)
    while step < config.num_steps:
        batch = put_batch(next(data), trainer.mesh)
        state, metrics = trainer.train_step(state, batch)
        step += 1
        # Read one step late, so the device always has the next step to work on.
        reader.push(step, metrics, batch["inputs"].size)
        last = step == config.num_steps
        if last or step % config.checkpoint_every_steps == 0:
            reader.flush()  # a state with NaN is never saved
            checkpoints.save(step, state, data)
        every = config.eval_every_steps
        if every and step % every == 0 and not last:
            reader.flush()
            result = evaluate(
                trainer.eval_step, state.weights, task, config.part_size, trainer.mesh
            )
            metrics_log.write(step, _named("eval", result))
    reader.flush()
    return state


class _MetricsReader:
    """Fetches a step's metrics after the next step was sent off; checks, logs and shows them."""

    def __init__(self, config: TrainConfig, log: MetricsLog, progress: Progress, step: int):
        self._config, self._log, self._progress = config, log, progress
        self._pending = None
        self._tokens, self._since = 0, time.perf_counter()

    def push(self, step: int, metrics: dict[str, jax.Array], tokens: int) -> None:
        """Hands in the metrics of `step` and reads those of the step before."""
        self.flush()
        self._pending = (step, metrics, tokens)

    def flush(self) -> None:
        """Reads what is pending. Raises FloatingPointError on NaN or Inf."""
        if self._pending is None:
            return
        (step, metrics, tokens), self._pending = self._pending, None
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        for key in ("loss", "grad_norm"):
            if not math.isfinite(values[key]):
                raise FloatingPointError(f"step {step}: {key} is {values[key]}")
        self._progress.update(step, values["loss"], values["accuracy"])
        self._tokens += tokens
        if step % self._config.log_every_steps == 0 or step == self._config.num_steps:
            now = time.perf_counter()
            speed = self._tokens / (now - self._since)
            self._log.write(step, {**_named("train", values), "perf/tokens_per_second": speed})
            self._tokens, self._since = 0, now


def _named(group: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{group}/{k}": v for k, v in values.items()}


def _write_record(workdir: Path, record: dict) -> None:
    """config.json and machine.json, before any work; refuses a workdir of another config."""
    path = workdir / "config.json"
    primary = jax.process_index() == 0
    text = json.dumps(record, indent=2) + "\n"
    old = json.loads(path.read_text() if path.exists() else text)
    if differing := _differences(old, json.loads(text)):
        raise ValueError(
            f"workdir: {workdir} holds a run with another config; differing: "
            + "; ".join(differing)
        )
    # All processes have looked before one writes, so all of them refuse or none.
    multihost_utils.sync_global_devices("config.json")
    if not primary:
        return
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (workdir / "machine.json").write_text(json.dumps(machine_info(), indent=2) + "\n")


def _differences(old, new, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        parts = [_differences(old.get(k), new.get(k), f"{where}.{k}".lstrip(".")) for k in keys]
        return [p for part in parts for p in part]
    return [] if old == new else [f"{where} was {old!r}, is {new!r}"]
