# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The only training loop: data in, steps, metrics and checkpoints out.

The same call on the same `workdir` goes on where the last one stopped, bit for bit.
"""

import functools
import json
import logging
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from deltanet_jax import sharding
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.checkpoint import Checkpoints, with_shardings
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.evaluate import evaluate, put_batch
from deltanet_jax.train.metrics import MetricsLog, Progress, named
from deltanet_jax.train.optimizer import make_optimizer
from deltanet_jax.train.profiler import Profiler
from deltanet_jax.train.step import (
    TrainState,
    init_state,
    model_graph,
    state_shardings,
    sum_and_predict,
    train_step,
)
from deltanet_jax.train.step_reader import StepReader
from deltanet_jax.train.task import Task
from pallas_kernels._common.timing import machine_info

logger = logging.getLogger("deltanet_jax")


class Trainer:
    """The compiled steps of a run and where its arrays live.

    Attributes:
        model_config: of the model trained.
        mesh: over all devices.
        abstract_state: shapes, dtypes and shardings of the train state.
        init: () -> TrainState.
        train_step: (state, batch) -> (state, metrics); the old state's memory is reused.
        eval_step: (weights, batch) -> (Sums, predictions [B, T] int32).
    """

    def __init__(self, model_config: ModelConfig, config: TrainConfig, devices=None):
        self.model_config = model_config
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
        whole = NamedSharding(self.mesh, PartitionSpec())  # so that every process can read them
        evaluate_batch = functools.partial(sum_and_predict, graph, loss_sizes)
        self.eval_step = jax.jit(self._on_mesh(evaluate_batch), out_shardings=whole)

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
    profile_steps: tuple[int, int] | None = None,
    wandb_project: str | None = None,
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
        profile_steps: first and last step to trace, into `workdir`/profile (XProf's format).
        wandb_project: also log there; the run's id is kept in `workdir`, so a resumed run goes on
            in the same place.
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
    write_record(workdir, record)

    data = iter(task.train_dataset(config.batch_size))
    with Checkpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints:
        step = checkpoints.latest_step
        if step is None:
            step, state = 0, trainer.init()
        else:
            state = checkpoints.restore(step, trainer.abstract_state, data)
            logger.info("resumed %s at step %d", workdir, step)
        metrics_log = MetricsLog(workdir, step, wandb_project=wandb_project, config=record)
        profiler = Profiler(workdir / "profile", profile_steps)
        progress = Progress(name, config.num_steps, step)
        try:
            state = _run(
                trainer,
                config,
                task,
                state,
                step,
                data,
                checkpoints,
                metrics_log,
                progress,
                profiler,
            )
            progress.close()
            result = evaluate(
                trainer.eval_step, state.weights, task, config.part_size, trainer.mesh
            )
            if step < config.num_steps:
                metrics_log.write(config.num_steps, named("eval", result))
        finally:
            profiler.close()
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
    profiler: Profiler,
) -> TrainState:
    reader = StepReader(trainer.model_config, config, metrics_log, progress)
    while step < config.num_steps:
        batch = put_batch(next(data), trainer.mesh)
        profiler.before(step + 1)
        state, metrics = trainer.train_step(state, batch)
        step += 1
        profiler.after(step, metrics)
        # Read one step late, so the device always has the next step to work on.
        reader.push(step, metrics, batch["inputs"].shape)
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
            metrics_log.write(step, named("eval", result))
    reader.flush()
    return state


def write_record(workdir: Path, record: dict) -> None:
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
