# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains and evaluates models of the small main table, one after another, on one GPU:

    python -m experiments.lm_small --models=delta_net,gla --data=runs/wiki \\
        --out=experiments/results/lm_small --tokenizer=tokenizer.model --wikitext=wiki.test.raw \\
        --tasks=lambada --task_data=FOLDER

Models are the presets lm_small/NAME (experiments/lm_small_presets.py); with --seed=N, NAME below
ends in -seed-N. WORKDIR/NAME is the run with its checkpoints; OUT/NAME gets config.json,
machine.json, metrics.jsonl and, once the model is evaluated, offline.json (with --tasks, those of
experiments.evaluate) and, last, record.json, from which experiments.report makes README's table.
The same command goes on where it stopped and leaves finished models alone. After --max_minutes the
run at work is saved and ended (exit code 75), and a model that would take longer than there is
time is not started. For several GPUs: a process each, with other --models and CUDA_VISIBLE_DEVICES.
"""

import contextlib
import json
import logging
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags

from deltanet_jax.train.checkpoint import CheckpointError
from deltanet_jax.train.files import write_atomically
from deltanet_jax.train.guard import SkippedSteps
from deltanet_jax.train.loop import train
from deltanet_jax.train.stop import INTERRUPTED, IO_ERROR, Interrupted, Stop
from experiments import platform
from experiments.command import run
from experiments.evaluation.run import OFFLINE, TaskOptions, evaluate_tasks, step_folder
from experiments.flags import explain
from experiments.lm_small_eval import evaluate_workdir, wikitext_from_flags
from experiments.lm_small_presets import LM_SMALL_PRESETS, PREFIX, with_seed
from experiments.logs import quiet_logs
from experiments.run_config import RunConfig, read_run_config
from experiments.text.flags import define_lm_small_flags
from experiments.text.shards import read_index
from experiments.text.tokenizers import Tokenizer
from experiments.text.wikitext import Page

logger = logging.getLogger("experiments")

RECORD = "record.json"
KEPT = ("config.json", "machine.json", "metrics.jsonl")


def configs(models: list[str], data: str, reduced: bool, seed: int = 0) -> dict[str, RunConfig]:
    """Folder's name -> its run on `data`.

    Args:
        models: names of presets without their prefix.
        data: a folder made by prepare_data.
        reduced: a toy of the same layers, of any tokenizer, to try all of it out without a GPU.
        seed: of the weights and of the order of the data.
    Raises:
        ValueError: a name that is none, or given twice.
    """
    known = [name.removeprefix(PREFIX) for name in LM_SMALL_PRESETS]
    if wrong := [name for name in models if name not in known]:
        raise ValueError(f"models: wanted names of {known}, got {wrong}")
    if not models or len(set(models)) < len(models):
        raise ValueError(f"models: wanted different names, at least one, got {models}")
    found = {}
    for name in models:
        config = LM_SMALL_PRESETS[PREFIX + name]()
        config = config.replace(
            task=config.task.replace(data=(data,), data_seed=seed),
            train=config.train.replace(seed=seed),
        )
        found[with_seed(name, seed)] = _reduced(config) if reduced else config
    return found


def _reduced(config: RunConfig) -> RunConfig:
    vocab_size = read_index(Path(config.task.data[0])).settings.vocab_size
    model, train = config.model, config.train
    return RunConfig(
        model=model.replace(
            vocab_size=vocab_size,
            d_model=32,
            mlp_hidden_size=32,
            compute_dtype="float32",
            scan_unroll=1,
        ),
        task=config.task.replace(
            vocab_size=vocab_size, seq_len=32, max_eval_windows=8, tokenizer_digest=""
        ),
        train=train.replace(
            num_steps=4,
            batch_size=8,
            log_every_steps=1,
            eval_every_steps=2,
            checkpoint_every_steps=2,
            optimizer=train.optimizer.replace(warmup_steps=1),
        ),
    )


class Deadline:
    """Asks `stop` after so many minutes, and knows what still fits. 0 minutes: there is none."""

    def __init__(self, minutes: float, stop: Stop):
        self._end = time.monotonic() + 60 * minutes if minutes else float("inf")
        self._longest = 0.0
        self._timer = threading.Timer(60 * minutes, stop.ask) if minutes else None

    def fits(self) -> bool:
        """Whether there is as much time left as the longest model so far took."""
        return time.monotonic() + self._longest < self._end

    @contextlib.contextmanager
    def model(self):
        """Around all that is done for one."""
        began = time.monotonic()
        yield
        self._longest = max(self._longest, time.monotonic() - began)

    def __enter__(self) -> "Deadline":
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_) -> None:
        if self._timer is not None:
            self._timer.cancel()


def check_config(flag: str, folder: Path, config: RunConfig) -> None:
    """Raises ValueError if `folder`, which `flag` names, is of another config."""
    if (folder / "config.json").exists() and read_run_config(folder) != config:
        raise ValueError(
            f"{flag}: {folder} is of another config; wanted the same or another folder"
        )


def is_done(folder: Path, config: RunConfig) -> bool:
    """Whether `folder` has the record of this config. Raises ValueError if it has another's."""
    check_config("out", folder, config)
    return (folder / RECORD).exists()


class HeldOut(NamedTuple):
    """What models are evaluated on beside their own held-out text; all of it may be None.

    Attributes:
        pages, tokenizer: WikiText and what cuts it into tokens.
        tasks: offline tasks.
    """

    pages: list[Page] | None = None
    tokenizer: Tokenizer | None = None
    tasks: TaskOptions | None = None


def run_model(
    name: str, config: RunConfig, workdir: Path, folder: Path, held_out: HeldOut, stop: Stop
) -> None:
    """Trains a model in `workdir`, evaluates it, and writes what is kept into `folder`.

    Raises:
        Interrupted, SkippedSteps, CheckpointError: as `train`, whose log is kept nevertheless.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        train(
            config.model,
            config.train,
            config.task.make(),
            workdir,
            record=config,
            name=name,
            stop=stop,
        )
    finally:
        for file in KEPT:
            if (workdir / file).exists():
                shutil.copyfile(workdir / file, folder / file)
    if stop.asked():
        raise Interrupted(config.train.num_steps)  # there may be no time to evaluate it
    record = {"model": name} | evaluate_workdir(workdir, held_out.pages, held_out.tokenizer)
    if held_out.tasks is not None:
        step = evaluate_tasks(workdir, held_out.tasks)["step"]
        shutil.copyfile(step_folder(workdir, step) / OFFLINE, folder / OFFLINE)
    write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")


def run_models(
    runs: dict[str, RunConfig],
    workdir: Path,
    out: Path,
    held_out: HeldOut,
    deadline: Deadline,
    stop: Stop,
) -> dict[str, str]:
    """Model -> what became of it: "done", "not started", or "failed: ...".

    Raises:
        ValueError: bad input; before any work if `out` or `workdir` has other configs.
        Interrupted: the run at work was saved.
    """
    todo = {name: c for name, c in runs.items() if not is_done(out / name, c)}
    for name, config in todo.items():  # whose log would be copied into `out`
        check_config("workdir", workdir / name, config)
    outcome = {name: "done" for name in runs if name not in todo}
    for name, config in todo.items():
        if stop.asked() or not deadline.fits():
            outcome[name] = "not started"
            continue
        try:
            with deadline.model():
                run_model(name, config, workdir / name, out / name, held_out, stop)
            outcome[name] = "done"
        except (SkippedSteps, jax.errors.JaxRuntimeError) as error:
            logger.error("%s: %s", name, error)
            outcome[name] = f"failed: {str(error).splitlines()[0]}"
    return outcome


def tasks_from_flags(values) -> TaskOptions | None:
    """The offline tasks that the flags name, whose files were found to be readable.

    Raises:
        ValueError: files or tokenizer are missing, or not as wanted.
    """
    if not values.tasks:
        if values.task_data is not None:
            raise ValueError("task_data: wanted --tasks with it, got none")
        return None
    for name, what in (("task_data", "the folder with the tasks' files"), ("tokenizer", "one")):
        if getattr(values, name) is None:
            raise ValueError(f"{name}: wanted {what} with --tasks, got none")
    limit = 2 if values.reduced else None
    options = TaskOptions(tuple(values.tasks), values.tokenizer, values.task_data, limit)
    try:
        options.questions()
    except ValueError as error:  # evaluate's flag has another name
        raise ValueError(re.sub("^data:", "task_data:", str(error))) from error
    return options


def held_out_from_flags(values) -> HeldOut:
    """WikiText and offline tasks, those that the flags name.

    Raises:
        ValueError: as `wikitext_from_flags`, though tasks need the tokenizer too, and
            `tasks_from_flags`.
    """
    tasks = tasks_from_flags(values)
    name = values.tokenizer if values.wikitext or tasks is None else None
    pages, tokenizer = wikitext_from_flags(values.wikitext, name)
    return HeldOut(pages[:1] if values.reduced and pages else pages, tokenizer, tasks)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        platform.configure_from_flags(values)
        runs = configs(values.models, values.data, values.reduced, values.seed)
        held_out = held_out_from_flags(values)
        stop = Stop()
        with Deadline(values.max_minutes, stop) as deadline, stop.on_signals(processes=False):
            folders = Path(values.workdir), Path(values.out)
            outcome = run_models(runs, *folders, held_out, deadline, stop)
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {explain(error)}")
    except Interrupted as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(IO_ERROR)
    print(json.dumps(outcome))
    if any(text.startswith("failed") for text in outcome.values()):
        sys.exit(1)
    if "not started" in outcome.values():
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    define_lm_small_flags()
    run(main)
