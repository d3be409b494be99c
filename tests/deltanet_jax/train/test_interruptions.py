# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that are stopped, poisoned, or find their directory changed, against one unbroken run."""

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import threading
import types

import jax
import numpy as np
import pytest

from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train import loop, manifest, replay, step_reader
from deltanet_jax.train.checkpoint import CheckpointError, Checkpoints
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from deltanet_jax.train.evaluate import put_batch
from deltanet_jax.train.files import locked
from deltanet_jax.train.guard import SkippedSteps
from deltanet_jax.train.loop import train
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.stop import Interrupted, Stop
from tests.helpers.compare import equal_bits
from tests.helpers.models import MIXERS, small_config, small_task
from tests.helpers.tasks import Crash, Wrapped, without_speed

MODEL = small_config(MIXERS["attention"], embed_dropout=0.1, num_layers=1)
CONFIG = TrainConfig(
    num_steps=6,
    batch_size=8,
    log_every_steps=1,
    eval_every_steps=2,
    checkpoint_every_steps=2,
    max_skipped_steps=2,
    mesh=MeshConfig(data=2),
    optimizer=OptimizerConfig(learning_rate=1e-2, schedule="constant"),
)
TASK = small_task(num_train_examples=24)  # an epoch is three steps


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """All runs of this file share one trainer, which is what costs."""
    with pytest.MonkeyPatch.context() as patch:
        two = functools.partial(loop.Trainer, devices=jax.devices()[:2])
        patch.setattr(loop, "Trainer", functools.cache(two))
        yield


def state_at(workdir, step):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.newest() == step
        return checkpoints.restore(step, loop.Trainer(MODEL, CONFIG).abstract_state)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(MODEL, CONFIG, TASK.make(), workdir)


def assert_equals_the_whole_run(workdir, result, whole):
    assert result == whole[1]
    assert equal_bits(state_at(workdir, 6), state_at(whole[0], 6))
    rows = [without_speed(read_metrics(d / "metrics.jsonl")) for d in (workdir, whole[0])]
    assert rows[0] == rows[1]


def at(wanted, action):
    """Calls `action` at a number; batches pass through.

    The fingerprint takes the data's first batch and asks for the held-out examples once.
    """

    def change(number, batch=None):
        if number == wanted:
            action()
        return batch

    return change


def when_made(step, action):
    """Calls `action` with that step's batch; the fingerprint has made the first one before."""
    made = itertools.count()

    def change(number, batch):
        if number == step and next(made) == (step == 1):
            action(batch)
        return batch

    return change


@pytest.mark.parametrize("step", [1, 3])
def test_a_stopped_run_has_saved_its_last_step_and_goes_on_bit_for_bit(whole, tmp_path, step):
    """Asked while that step's batch is made: the step is still done. 3 is the end of an epoch."""
    stop = Stop()
    with pytest.raises(Interrupted) as stopped:
        change = when_made(step, lambda batch: stop.ask())
        train(MODEL, CONFIG, Wrapped(TASK.make(), change), tmp_path, stop=stop)
    assert stopped.value.step == step
    assert int(state_at(tmp_path, step).step) == step
    assert_equals_the_whole_run(tmp_path, train(MODEL, CONFIG, TASK.make(), tmp_path), whole)


def test_a_run_stopped_while_it_saves_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    stop, write = Stop(), manifest.write

    def asked(folder, facts, early):
        stop.ask()
        write(folder, facts, early)

    monkeypatch.setattr(manifest, "write", asked)
    with pytest.raises(Interrupted) as stopped:
        train(MODEL, CONFIG, TASK.make(), tmp_path, stop=stop)
    assert stopped.value.step >= 2
    monkeypatch.undo()
    assert_equals_the_whole_run(tmp_path, train(MODEL, CONFIG, TASK.make(), tmp_path), whole)


def test_every_example_is_trained_on_once_an_epoch_through_stops(whole, tmp_path):
    """Stopped and started after every step but the last; two epochs of 24 examples."""
    seen = {}
    for step in range(1, 7):
        stop = Stop()

        def note(batch, step=step, stop=stop):
            seen[step] = [row.tobytes() for row in batch["inputs"]]
            if step < 6:
                stop.ask()

        with contextlib.nullcontext() if step == 6 else pytest.raises(Interrupted):
            task = Wrapped(TASK.make(), when_made(1, note))
            train(MODEL, CONFIG, task, tmp_path, stop=stop)
    data = iter(TASK.make().train_dataset(8))
    assert seen == {s: [row.tobytes() for row in next(data)["inputs"]] for s in range(1, 7)}
    for epoch in (1, 4):
        rows = [row for step in range(epoch, epoch + 3) for row in seen[step]]
        assert len(set(rows)) == len(rows) == 24
    assert equal_bits(state_at(tmp_path, 6), state_at(whole[0], 6))


@pytest.mark.parametrize("number", [1, 3])
def test_an_evaluation_is_left_and_made_again(whole, tmp_path, number):
    """The evaluation after step 2 and the one at the end."""
    stop = Stop()
    task = Wrapped(TASK.make(), evaluating=at(1 + number, stop.ask))
    with pytest.raises(Interrupted) as stopped:
        train(MODEL, CONFIG, task, tmp_path, stop=stop)
    assert stopped.value.step == 2 * number
    assert_equals_the_whole_run(tmp_path, train(MODEL, CONFIG, TASK.make(), tmp_path), whole)


def test_an_evaluation_is_no_steps_time(tmp_path, monkeypatch):
    """By a clock on which a step takes a second and an evaluation an hour; stopped in one."""
    stop, passed = Stop(), [0.0]

    def pass_time(seconds):
        passed.append(passed[-1] + seconds)
        return passed[-1]

    def batch_made(number, batch):
        pass_time(1)
        return batch

    def evaluating(number):
        pass_time(3600)
        if number == 2:  # the fingerprint is first
            stop.ask()

    clock = types.SimpleNamespace(perf_counter=lambda: pass_time(0.01))
    monkeypatch.setattr(step_reader, "time", clock)
    task = Wrapped(TASK.make(), batch_made, evaluating)
    with pytest.raises(Interrupted):
        train(MODEL, CONFIG, task, tmp_path, stop=stop)
    train(MODEL, CONFIG, task, tmp_path)
    rows = {r["step"]: r for r in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in r}
    assert max(row["perf/step_seconds"] for row in rows.values()) < 3


def test_a_crash_in_an_evaluation_loses_no_row(whole, tmp_path):
    def crash():
        raise Crash

    with pytest.raises(Crash):
        train(MODEL, CONFIG, Wrapped(TASK.make(), evaluating=at(3, crash)), tmp_path)
    assert_equals_the_whole_run(tmp_path, train(MODEL, CONFIG, TASK.make(), tmp_path), whole)


def test_sigterm_in_a_step_saves(whole, tmp_path):
    stop = Stop()
    terminate = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
    with stop.on_signals(processes=False), pytest.raises(Interrupted) as stopped:
        stop.unsaved = True
        train(MODEL, CONFIG, Wrapped(TASK.make(), at(2, terminate)), tmp_path, stop=stop)
    assert 2 <= stopped.value.step <= 3  # the thread that sees signals may be a step late
    assert_equals_the_whole_run(tmp_path, train(MODEL, CONFIG, TASK.make(), tmp_path), whole)


@pytest.fixture
def full_disk(monkeypatch):
    """Saves of these steps fail."""
    write = manifest.write

    def at(*steps):
        def full(folder, facts, early):
            if facts["step"] in steps:
                raise OSError(28, "No space left on device")
            write(folder, facts, early)

        monkeypatch.setattr(manifest, "write", full)

    return at


def test_a_failed_save_ends_the_run_within_a_step_and_loses_nothing(whole, tmp_path, full_disk):
    full_disk(4)
    message = r"^checkpoint of step 4 .*No space left on device; the newest one .* step 2"
    with pytest.raises(CheckpointError, match=message):
        train(MODEL, CONFIG, TASK.make(), tmp_path)
    full_disk()
    assert_equals_the_whole_run(tmp_path, train(MODEL, CONFIG, TASK.make(), tmp_path), whole)


def test_a_run_goes_on_after_failed_saves_if_asked_to(whole, tmp_path, full_disk, caplog):
    """Each is said once and leaves nothing behind; the next one that can succeeds."""
    full_disk(1, 2, 4)
    config = CONFIG.replace(checkpoint_every_steps=1)
    keep = {"on_save_error": "continue"}
    result = train(MODEL, config, TASK.make(), tmp_path / "run", **keep)
    said = re.findall(r"checkpoint of step (\d) could not be saved: .*; going on", caplog.text)
    assert said == ["1", "2", "4"]
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names <= {"3", "5", "6"} and "6" in names
    assert result == whole[1]
    with pytest.raises(ValueError, match="on_save_error: wanted one of .*, got 'retry'"):
        train(MODEL, config, TASK.make(), tmp_path / "run", on_save_error="retry")


@pytest.mark.parametrize("last", [True, False])
def test_the_save_that_ends_a_run_must_succeed(tmp_path, full_disk, last):
    """That of the last step, and that of a step where the run is stopped."""
    full_disk(6 if last else 3)
    stop = Stop()
    task = TASK.make() if last else Wrapped(TASK.make(), at(3, stop.ask))
    with pytest.raises(CheckpointError, match=f"step {6 if last else 3} could not"):
        train(MODEL, CONFIG, task, tmp_path, stop=stop, on_save_error="continue")


def test_an_old_checkpoint_that_cannot_be_removed_fails_no_newer_one(
    whole, tmp_path, monkeypatch, caplog
):
    """As on network file systems, where something still has a file open."""
    rmtree, left = shutil.rmtree, ["2.removing"]

    def busy(path, *args, **options):
        if path.name in left:
            left.remove(path.name)
            raise OSError(16, "Device or resource busy", str(path))
        rmtree(path, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", busy)
    config = CONFIG.replace(keep_checkpoints=1)
    assert train(MODEL, config, TASK.make(), tmp_path) == whole[1]
    assert "checkpoint of step 2 could not be removed: [Errno 16] Device" in caplog.text
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["6"]


def test_a_stop_saves_its_step_though_the_save_before_fails_meanwhile(tmp_path, monkeypatch):
    stop, write, asked = Stop(), manifest.write, threading.Event()

    def full(folder, facts, early):
        if facts["step"] == 2:
            assert asked.wait(60)
            raise OSError(28, "No space left on device")
        write(folder, facts, early)

    def stopped():
        stop.ask()
        threading.Timer(0.5, asked.set).start()  # step 3 is done long before

    monkeypatch.setattr(manifest, "write", full)
    with pytest.raises(Interrupted):
        task = Wrapped(TASK.make(), at(3, stopped))
        config = CONFIG.replace(eval_every_steps=0)
        train(MODEL, config, task, tmp_path, stop=stop, on_save_error="continue")
    assert int(state_at(tmp_path, 3).step) == 3


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(whole, tmp_path):
    stop = Stop()
    with pytest.raises(Interrupted):
        train(MODEL, CONFIG, Wrapped(TASK.make(), at(5, stop.ask)), tmp_path, stop=stop)
    path = max((tmp_path / "checkpoints" / "5" / "state" / "d").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert_equals_the_whole_run(tmp_path, train(MODEL, CONFIG, TASK.make(), tmp_path), whole)
    assert (tmp_path / "checkpoints" / "5.damaged").is_dir()


def poison(*numbers):
    """NaN in the first row alone: with two devices, on one of them."""

    def change(number, batch):
        if number in numbers:
            batch["weights"] = batch["weights"].copy()
            batch["weights"][0] *= np.float32("nan")
        return batch

    return change


def manual_run(numbers):
    """The state after the batches of these numbers, by steps one after the other."""
    trainer = loop.Trainer(MODEL, CONFIG)
    state, data = trainer.init(), iter(TASK.make().train_dataset(8))
    for number in range(1, max(numbers) + 1):
        batch = next(data)
        if number in numbers:
            state, _ = trainer.train_step(state, put_batch(batch, trainer.mesh))
    return state


def test_a_poisoned_step_changes_no_bit_of_the_state(tmp_path):
    """Batch 3 is skipped: what remains is a run over the others, schedule and dropout included."""
    train(MODEL, CONFIG, Wrapped(TASK.make(), poison(3)), tmp_path)
    state, wanted = state_at(tmp_path, 6), manual_run([1, 2, 4, 5, 6])
    assert equal_bits(state._replace(guard=()), wanted._replace(guard=()))
    assert not equal_bits(state.weights, manual_run([1, 2, 3, 4, 5, 6]).weights)
    rows = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "train/skipped_steps" in r]
    assert [r["train/skipped_steps"] for r in rows] == [0, 0, 1, 1, 1, 1]
    assert ["train/loss" in r for r in rows] == [True, True, False, True, True, True]


def test_too_many_poisoned_steps_stop_the_run_and_the_last_can_be_run_again(tmp_path):
    with pytest.raises(SkippedSteps, match="^step 4: loss is nan; 2 skipped in a row") as stopped:
        train(MODEL, CONFIG, Wrapped(TASK.make(), poison(3, 4)), tmp_path)
    assert f"the step is kept in {tmp_path / 'replay'}" in stopped.value.__notes__
    assert int(state_at(tmp_path, 2).step) == 2  # nothing after too many is saved

    trainer = loop.Trainer(MODEL, CONFIG)
    step, state, batch = replay.load(tmp_path, trainer.abstract_state)
    assert step == 4 and np.isnan(batch["weights"][0]).any()
    assert equal_bits(state._replace(guard=()), manual_run([1, 2])._replace(guard=()))
    again = replay.run_again(trainer, state, batch)
    assert np.isnan(again["loss"]) and np.isnan(again["grad_norm"])
    assert len(again["not_finite"]) == len(jax.tree.leaves(trainer.abstract_state.weights))
    batch["weights"] = np.nan_to_num(batch["weights"])
    state = replay.load(tmp_path, trainer.abstract_state)[1]
    assert replay.run_again(trainer, state, batch)["not_finite"] == []


def test_a_save_that_fails_too_does_not_hide_why_a_run_stopped(tmp_path, monkeypatch, full_disk):
    """Step 2's save is under way until the replay's is done."""
    full_disk(2)
    kept, keep, write = threading.Event(), replay.keep, manifest.write

    def late(folder, facts, early):
        if facts["step"] == 2:
            assert kept.wait(60)
        write(folder, facts, early)

    def note(*args):
        try:
            return keep(*args)
        finally:
            kept.set()

    monkeypatch.setattr(manifest, "write", late)
    monkeypatch.setattr(replay, "keep", note)
    with pytest.raises(SkippedSteps, match="^step 4: loss is nan") as stopped:
        train(MODEL, CONFIG, Wrapped(TASK.make(), poison(3, 4)), tmp_path)
    assert any("checkpoint of step 2 could not be saved" in n for n in stopped.value.__notes__)


def test_a_replay_is_of_the_run_that_stopped_last(tmp_path):
    """At the same step again, and at an earlier one, of which the folder had a later."""
    trainer = loop.Trainer(MODEL, CONFIG)
    data = iter(TASK.make().train_dataset(8))
    for step, value in ((4, 1.0), (4, 2.0), (2, 3.0)):
        batch = {"weights": np.full((8, 2), value, np.float32)}
        values = {"loss": np.nan, "grad_norm": np.nan}
        replay.keep(tmp_path, SkippedSteps(step, batch, values, 2), trainer.init(), data, {})
        found, _, kept = replay.load(tmp_path, trainer.abstract_state)
        assert (found, kept["weights"][0, 0]) == (step, value)
    assert {path.name for path in (tmp_path / "replay").iterdir()} == {"2", "batch-2.npz"}


def test_a_replay_that_holds_objects_is_refused(tmp_path, whole):
    folder = tmp_path / "replay"
    trainer = loop.Trainer(MODEL, CONFIG)
    with Checkpoints(folder, 1) as checkpoints:
        data = iter(TASK.make().train_dataset(8))
        checkpoints.save(2, trainer.init(), data)
    np.savez(folder / "batch-2.npz", inputs=np.asarray([{}], object))
    with pytest.raises(ValueError, match=r"batch-2.npz: wanted the arrays of a batch: Object arra"):
        replay.load(tmp_path, trainer.abstract_state)
    with pytest.raises(ValueError, match="wanted a run that was stopped by skipped steps"):
        replay.load(whole[0], trainer.abstract_state)


def test_a_second_run_in_the_directory_is_refused(whole):
    before = (whole[0] / "metrics.jsonl").read_text()
    with locked(whole[0]), pytest.raises(ValueError, match="is in use by another run, process"):
        train(MODEL, CONFIG, TASK.make(), whole[0])
    assert (whole[0] / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("change", [{"data_seed": 1}, {"num_eval_examples": 19}])
def test_other_data_is_refused_unless_allowed(whole, tmp_path, change):
    stop = Stop()
    with pytest.raises(Interrupted):
        train(MODEL, CONFIG, Wrapped(TASK.make(), at(5, stop.ask)), tmp_path, stop=stop)
    with pytest.raises(ValueError, match="^allow_data_change: the checkpoint of step 5 was made"):
        train(MODEL, CONFIG, TASK.replace(**change).make(), tmp_path)
    train(MODEL, CONFIG, TASK.replace(**change).make(), tmp_path, allow_data_change=True)


def test_the_manifest_says_what_made_the_checkpoint(whole):
    with Checkpoints(whole[0] / "checkpoints") as checkpoints:
        facts = checkpoints.facts(6)
    assert facts["config"] == json.loads((whole[0] / "config.json").read_text())
    assert facts["machine"] == json.loads((whole[0] / "machine.json").read_text())
    assert facts["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1, "sequence": 1}
