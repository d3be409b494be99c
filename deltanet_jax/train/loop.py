# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The loop of a run: data in, steps, metrics and checkpoints out.

The same call on the same `workdir` goes on where the last one stopped, bit for bit.
"""

import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from deltanet_jax import sharding
from deltanet_jax.config import Config
from deltanet_jax.model import ModelConfig
from deltanet_jax.train import replay
from deltanet_jax.train.checkpoint import CheckpointError, Checkpoints, with_shardings
from deltanet_jax.train.config import ON_SAVE_ERROR, TrainConfig
from deltanet_jax.train.evaluate import evaluate, put_batch
from deltanet_jax.train.files import (
    first_process,
    locked,
    prepare_directory,
    read_json,
    write_atomically,
)
from deltanet_jax.train.guard import SkippedSteps
from deltanet_jax.train.metrics import MetricsLog, Progress, named
from deltanet_jax.train.optimizer import check_param_dtype, make_optimizer
from deltanet_jax.train.profiler import Profiler
from deltanet_jax.train.step import (
    TrainState,
    gradients,
    init_state,
    model_graph,
    state_shardings,
    sum_and_predict,
    token_losses,
    train_step,
)
from deltanet_jax.train.step_reader import StepReader
from deltanet_jax.train.stop import Interrupted, Stop
from deltanet_jax.train.task import Task, fingerprint
from deltanet_jax.train.watchdog import Watchdog
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
        eval_step: (weights, batch) -> (Sums, predictions [B, N] int32), N = T without `positions`.
        token_losses: (weights, batch) -> the cross-entropy of every target, [B, N], float32
            (float64 in a float64 model).
        finite_gradients: (state, batch) -> for every weight whether its gradient is finite.
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
        parts = config.accumulation_steps
        step = functools.partial(
            train_step, graph, optimizer, loss_sizes, parts, config.guard_sizes
        )
        self.train_step = jax.jit(
            self._on_mesh(step), out_shardings=(shardings, None), donate_argnums=0
        )

        def finite_gradients(state, batch):
            grads, _ = gradients(graph, loss_sizes, parts, state, batch)
            return jax.tree.map(lambda x: jnp.isfinite(x).all(), grads)

        self.finite_gradients = jax.jit(self._on_mesh(finite_gradients))
        whole = NamedSharding(self.mesh, PartitionSpec())  # so that every process can read them
        evaluate_batch = functools.partial(sum_and_predict, graph, loss_sizes)
        self.eval_step = jax.jit(self._on_mesh(evaluate_batch), out_shardings=whole)
        losses = functools.partial(token_losses, graph, loss_sizes)
        self.token_losses = jax.jit(self._on_mesh(losses), out_shardings=whole)

    def _on_mesh(self, function):
        """`function` for whole arrays; what must know the mesh (operators) finds it there."""

        def run(*args):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*args)

        return run


@dataclasses.dataclass(frozen=True)
class _Record(Config):
    """What config.json holds of a run that brings no record of its own."""

    model: ModelConfig
    train: TrainConfig


def train(
    model_config: ModelConfig,
    config: TrainConfig,
    task: Task,
    workdir: Path,
    *,
    record: Config | None = None,
    name: str = "train",
    profile_steps: tuple[int, int] | None = None,
    wandb_project: str | None = None,
    stop: Stop | None = None,
    hang_seconds: float = 0.0,
    on_save_error: str = "fail",
    allow_data_change: bool = False,
) -> dict[str, float]:
    """Trains to `config.num_steps`, resuming from the newest intact checkpoint in `workdir`.

    In a run of several processes all of them call this, on a `workdir` that all of them see; the
    first one writes the records and shows progress.

    Args:
        model_config, config, task: what to train, how, on what.
        workdir: directory of config.json, machine.json, metrics.jsonl, tensorboard/, checkpoints/,
            lock, and of replay/ after too many skipped steps.
        record: what to write as config.json; by default the model's and the training's config.
            A resumed run must bring the same. What the file of an earlier version does not name
            has its default.
        name: the progress bar's.
        profile_steps: first and last step to trace, counted from 1, into `workdir`/profile (XProf's
            format).
        wandb_project: also log there; the run's id is kept in `workdir`, so a resumed run goes on
            in the same place.
        stop: asks the run to save and end.
        hang_seconds: end the process if it stands still for so long; 0 is never.
        on_save_error: "fail", or "continue": log what went wrong and try again when the next save
            is due. The last save, and that of a run that is stopped, must succeed.
        allow_data_change: resume although the task gives other batches than before.
    Returns:
        The last evaluation: "loss", "accuracy" and the task's own figures.
    Raises:
        ValueError: the config does not fit the devices, or differs from the one in `workdir`; the
            weights are float16; `profile_steps` go beyond the last step; `workdir` is not writable,
            too small for a checkpoint, or in use.
        Interrupted: `stop` was asked; everything is saved.
        SkippedSteps: a FloatingPointError; too many steps in a row were not finite. The last of
            them is kept in `workdir`/replay, by `deltanet_jax.train.replay`.
        CheckpointError: a checkpoint could not be written.
    """
    if on_save_error not in ON_SAVE_ERROR:
        raise ValueError(f"on_save_error: wanted one of {ON_SAVE_ERROR}, got {on_save_error!r}")
    if task.vocab_size != model_config.vocab_size:
        raise ValueError(
            f"vocab_size: wanted the task's {task.vocab_size}, got {model_config.vocab_size}"
        )
    if profile_steps is not None and profile_steps[1] > config.num_steps:
        raise ValueError(
            f"profile_steps: wanted steps of num_steps = {config.num_steps}, got {profile_steps[1]}"
        )
    check_param_dtype(model_config.param_dtype)
    trainer = Trainer(model_config, config)
    if record is None:
        record = _Record(model_config, config)
    stop = stop or Stop()
    stop.agree_over(trainer.mesh)
    with contextlib.ExitStack() as resources:
        machine = machine_info()
        needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trainer.abstract_state))
        written = record.to_dict()
        first_process(
            lambda: enter_workdir(workdir, written, machine, needed, resources, record.completed)
        )
        facts = {
            "config": written,
            "mesh": dict(trainer.mesh.shape),
            "data": fingerprint(task, config.batch_size),
            "machine": machine,
        }
        checkpoints = Checkpoints(
            workdir / "checkpoints",
            config.keep_checkpoints,
            facts,
            records=(workdir / "metrics.jsonl",),
            keep_every=config.keep_every_steps,
        )
        resources.enter_context(checkpoints)
        data = iter(task.train_dataset(config.batch_size))
        step = checkpoints.newest()
        if step is None:
            step, state = 0, trainer.init()
        else:
            if not allow_data_change:
                _check_data(step, checkpoints.facts(step)["data"], facts["data"])
            state = checkpoints.restore(step, trainer.abstract_state, data)
            logger.info("resumed %s at step %d", workdir, step)
        metrics_log = MetricsLog(workdir, step, wandb_project=wandb_project, config=written)
        resources.callback(metrics_log.close)
        progress = Progress(name, config.num_steps, step)
        resources.callback(progress.close)
        profiler = Profiler(workdir / "profile", profile_steps)
        resources.callback(profiler.close)
        watchdog = resources.enter_context(Watchdog(hang_seconds))
        run = _Run(
            trainer,
            config,
            task,
            data,
            checkpoints,
            metrics_log,
            progress,
            profiler,
            stop,
            watchdog,
            on_save_error,
        )
        try:
            return run.to_the_end(step, state)
        except SkippedSteps as error:
            _keep_replay(workdir, error, run.state, data, facts)
            raise


@dataclasses.dataclass
class _Run:
    """One call of `train` once all is set up; `state` is the newest one."""

    trainer: Trainer
    config: TrainConfig
    task: Task
    data: grain.DatasetIterator
    checkpoints: Checkpoints
    metrics_log: MetricsLog
    progress: Progress
    profiler: Profiler
    stop: Stop
    watchdog: Watchdog
    on_save_error: str
    state: TrainState | None = None

    def to_the_end(self, step: int, state: TrainState) -> dict[str, float]:
        """From `step` and the state after it to the last evaluation, which is returned."""
        config, begun = self.config, step
        self.state = state
        reader = StepReader(self.trainer.model_config, config, self.metrics_log, self.progress)
        if self._evaluation_due(step) and not self.metrics_log.evaluated(step):
            self._log_evaluation(step)
            reader.restart_clock()
        while step < config.num_steps:
            if self.stop.asked():
                reader.flush()
                self._save_and_end(step)
            batch = next(self.data)
            self.profiler.before(step + 1)
            placed = put_batch(batch, self.trainer.mesh)
            self.state, metrics = self.trainer.train_step(self.state, placed)
            step += 1
            self.stop.unsaved = True
            self.profiler.after(step, metrics)
            # Read one step late, so the device always has the next step to work on.
            reader.push(step, metrics, batch)
            self.watchdog.touch()
            with self._failed_saves():
                self.checkpoints.check()
            if step == config.num_steps or step % config.checkpoint_every_steps == 0:
                reader.flush()  # what comes after too many skipped steps is never saved
                with self._failed_saves():
                    self.checkpoints.wait()
                with self._failed_saves(step == config.num_steps):
                    self.checkpoints.save(step, self.state, self.data)
            if self._evaluation_due(step):
                reader.flush()
                self._log_evaluation(step)
                reader.restart_clock()
        reader.flush()
        self.progress.close()
        result = self._evaluate(step)
        if begun < config.num_steps or not self.metrics_log.evaluated(step):
            self.metrics_log.write(step, named("eval", result))
        return result

    @contextlib.contextmanager
    def _failed_saves(self, needed: bool = False) -> Iterator[None]:
        """Where saves may fail, if the run is to go on then and they are not `needed`."""
        try:
            yield
        except CheckpointError as error:
            if needed or self.on_save_error == "fail":
                raise
            logger.error("%s; going on", error)

    def _evaluation_due(self, step: int) -> bool:
        every = self.config.eval_every_steps
        return bool(every and step and step % every == 0 and step < self.config.num_steps)

    def _log_evaluation(self, step: int) -> None:
        self.metrics_log.write(step, named("eval", self._evaluate(step)))

    def _evaluate(self, step: int) -> dict[str, float]:
        def before_batch() -> None:
            self.watchdog.touch()
            if self.stop.asked():
                self._save_and_end(step)

        trainer = self.trainer
        return evaluate(
            trainer.eval_step,
            self.state.weights,
            self.task,
            self.config.part_size,
            trainer.mesh,
            before_batch,
        )

    def _save_and_end(self, step: int) -> None:
        with self._failed_saves():  # an earlier one's failure must not cost this step
            self.checkpoints.wait()
        if step and self.checkpoints.saved_step != step:
            self.checkpoints.save(step, self.state, self.data)
        self.checkpoints.wait()
        raise Interrupted(step)


def _keep_replay(
    workdir: Path, error: SkippedSteps, state: TrainState, data: grain.DatasetIterator, facts: dict
) -> None:
    """Keeps the step, and says in `error` where."""
    try:
        error.add_note(f"the step is kept in {replay.keep(workdir, error, state, data, facts)}")
    except (CheckpointError, OSError) as failure:
        error.add_note(f"the step could not be kept: {failure}")


def _check_data(step: int, old: str, new: str) -> None:
    if old != new:
        raise ValueError(
            f"allow_data_change: the checkpoint of step {step} was made with data of fingerprint "
            f"{old[:16]}, the task's first batch now has {new[:16]}; wanted the same data or this"
        )


def enter_workdir(
    workdir: Path,
    record: dict,
    machine: dict,
    needed_bytes: int,
    resources: contextlib.ExitStack,
    complete: Callable[[dict], dict],
) -> int:
    """Locks the directory until `resources` close and writes its records. For one process.

    `complete` gives the config of a run begun by an earlier version the fields that are new.

    Raises:
        ValueError: it holds a run of another config, is in use, not writable, or has less than
            `needed_bytes` free.
    """
    path = workdir / "config.json"
    new = json.loads(json.dumps(record))
    if path.exists():
        other = f"workdir: {workdir} holds a run with another config"
        try:
            old = complete(read_json(path))
        except ValueError as error:
            raise ValueError(f"{other}: {error}") from error
        if differing := _differences(old, new):
            raise ValueError(f"{other}; differing: " + "; ".join(differing))
    prepare_directory(workdir, needed_bytes)
    resources.enter_context(locked(workdir))
    if not path.exists():
        write_atomically(path, json.dumps(record, indent=2) + "\n")
    write_atomically(workdir / "machine.json", json.dumps(machine, indent=2) + "\n")
    return 0


def _differences(old, new, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        parts = [_differences(old.get(k), new.get(k), f"{where}.{k}".lstrip(".")) for k in keys]
        return [p for part in parts for p in part]
    return [] if old == new else [f"{where} was {old!r}, is {new!r}"]
