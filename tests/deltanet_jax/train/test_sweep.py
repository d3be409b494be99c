# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: each is the run of its own; tables, resuming, divergence."""

import functools
import json
import math
import time
import types

import jax
import numpy as np
import pytest

from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train import sweep
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from deltanet_jax.train.loop import train
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.sweep import Goal, Member, Runs, RunTable, grid, train_members
from tests.helpers.models import MIXERS, quick_config, small_config, small_task

MODEL = small_config(MIXERS["attention"], embed_dropout=0.1, init_std=0.05, mlp_hidden_size=0)
CONFIG = TrainConfig(
    num_steps=23,
    batch_size=8,
    eval_every_steps=6,
    checkpoint_every_steps=12,
    mesh=MeshConfig(data=1),
    optimizer=OptimizerConfig(min_learning_rate=1e-4, warmup_steps=4),
)
MEMBERS = [Member(1e-2, 0.5, 3), Member(1e-2, 0.0, 3), Member(3e-3, 0.5, 3), Member(1e-2, 0.5, 4)]


class Crash(Exception):
    pass


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """The same programs for every sweep of this file."""
    with pytest.MonkeyPatch.context() as patch:
        made = functools.cache(lambda model, config, members: Runs(model, config, members))
        patch.setattr(sweep, "Runs", lambda m, c, members: made(m, c, tuple(members)))
        yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The rows of an uninterrupted sweep."""
    workdir = tmp_path_factory.mktemp("sweep")
    train_members(MODEL, CONFIG, small_task().make(), MEMBERS, workdir)
    return read_metrics(workdir / "runs.jsonl")


def figures(rows):
    """Rows without the wall clock."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def of(rows, member):
    return [row for row in rows if Member(*(row[k] for k in Member._fields)) == member]


def test_grid_has_every_combination():
    members = grid([1e-3, 1e-2], [0.0, 0.1], [0, 1, 2])
    assert len(set(members)) == 12
    assert members[0] == (1e-3, 0.0, 0) and members[1] == (1e-3, 0.0, 1)


def test_every_member_reports_at_every_evaluation(swept):
    assert [row["step"] for row in swept] == [s for s in (6, 12, 18, 23) for _ in MEMBERS]
    for member in MEMBERS:
        losses = [row["loss"] for row in of(swept, member)]
        assert len(losses) == 4 and losses[-1] < losses[0]


def test_a_member_is_the_run_of_its_own(swept, tmp_path, monkeypatch):
    """Loss of the first member against `train` with its values; and not that of any other."""
    member = MEMBERS[0]
    config = CONFIG.replace(
        seed=member.seed,
        optimizer=CONFIG.optimizer.replace(
            learning_rate=member.learning_rate, weight_decay=member.weight_decay
        ),
    )
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    train(MODEL, config, small_task().make(), tmp_path)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "eval/loss" in row]
    alone = np.array([row["eval/loss"] for row in rows])
    together = {m: np.array([row["loss"] for row in of(swept, m)]) for m in MEMBERS}
    np.testing.assert_allclose(together[member], alone, rtol=2e-6)
    for other in MEMBERS[1:]:
        assert abs(together[other][-1] / alone[-1] - 1) > 1e-4, other


def changed(task, **changes):
    names = ("vocab_size", "train_dataset", "eval_dataset", "metrics")
    return types.SimpleNamespace(**({name: getattr(task, name) for name in names} | changes))


def set_clock(table, seconds):
    rows = [json.dumps(row | {"seconds": seconds}) for row in read_metrics(table)]
    table.write_text("".join(f"{row}\n" for row in rows))


def test_an_interrupted_sweep_ends_with_the_same_rows(swept, tmp_path):
    """Stopped after the evaluation of step 18; resumed from the checkpoint of step 12."""
    task = small_task().make()
    table = tmp_path / "runs.jsonl"

    def crash_at_the_end(loss, accuracy):
        if table.exists() and len(read_metrics(table)) == 3 * len(MEMBERS):
            raise Crash
        return {}

    with pytest.raises(Crash):
        train_members(MODEL, CONFIG, changed(task, metrics=crash_at_the_end), MEMBERS, tmp_path)
    assert read_metrics(table)[-1]["step"] == 18
    set_clock(table, 1000.0)
    train_members(MODEL, CONFIG, task, MEMBERS, tmp_path)
    rows = read_metrics(table)
    assert figures(rows) == figures(swept)
    # The clock goes on from what the interrupted run had taken; what was lost is not counted.
    assert {row["seconds"] for row in rows[: 2 * len(MEMBERS)]} == {1000.0}
    assert all(1000 < row["seconds"] < 1500 for row in rows[2 * len(MEMBERS) :])

    def never(batch_size):
        raise AssertionError("a finished sweep was trained again")

    train_members(MODEL, CONFIG, changed(task, train_dataset=never), MEMBERS, tmp_path)


def test_figures_that_are_not_finite_are_null(tmp_path):
    table = RunTable(tmp_path / "runs.jsonl")
    table.write(5, 1.25, MEMBERS[:2], [{"loss": float("nan"), "accuracy": 0.5}, {"loss": 1.0}])
    table.write(9, 2.0, MEMBERS[:1], [{"loss": 1.0}])
    first = {**MEMBERS[0]._asdict(), "step": 5, "seconds": 1.2, "loss": None, "accuracy": 0.5}
    assert table.rows()[0] == first
    assert [table.seconds(m) for m in (MEMBERS[:1], MEMBERS[1:2], MEMBERS[2:])] == [2.0, 1.2, 0.0]
    assert table.finished(MEMBERS[:1], 9, None) and not table.finished(MEMBERS[:2], 9, None)
    table.forget_after(4, MEMBERS[:1])
    assert table.rows() == [{**MEMBERS[1]._asdict(), "step": 5, "seconds": 1.2, "loss": 1.0}]


def test_a_sweep_ends_where_every_seed_of_one_setting_has_reached_the_goal(swept, tmp_path):
    """Whatever they score is enough: the first evaluation is the last."""
    task, goal = small_task().make(), Goal("accuracy", 0.0)
    for _ in range(2):  # the second time nothing is trained
        train_members(
            MODEL, CONFIG, task, MEMBERS, tmp_path, goal=goal, began=time.perf_counter() - 500
        )
        rows = read_metrics(tmp_path / "runs.jsonl")
        assert figures(rows) == figures(swept[: len(MEMBERS)])
        assert all(500 < row["seconds"] < 1000 for row in rows)
    right, wrong = {"accuracy": 0.9}, {"accuracy": 0.2}
    one_seed = [right, wrong, wrong, wrong]
    assert not Goal("accuracy", 0.9).reached(MEMBERS, one_seed)
    assert Goal("accuracy", 0.9).reached(MEMBERS, [right, wrong, wrong, right])
    assert not Goal("accuracy", 0.9).reached(MEMBERS[:1], [{"accuracy": float("nan")}])
    assert not Goal("accuracy", 0.9).reached(MEMBERS[:1], [{"accuracy": None}])


def test_a_goal_is_not_reached_by_rows_of_two_evaluations(tmp_path):
    """The second one was cut off between two members: one seed had it before, the other has now."""
    table, goal, seeds = RunTable(tmp_path / "runs.jsonl"), Goal("accuracy", 0.9), MEMBERS[::3]
    table.write(6, 1.0, seeds, [{"accuracy": 0.2}, {"accuracy": 0.9}])
    table.write(12, 2.0, seeds[:1], [{"accuracy": 0.9}])
    assert not table.finished(seeds, 23, goal)
    table.write(12, 2.0, seeds[1:], [{"accuracy": 0.9}])
    assert table.finished(seeds, 23, goal)


def test_a_member_that_only_skips_has_no_figures():
    results = [{"loss": 1.0, "accuracy": 0.5}, {"loss": 2.0, "accuracy": 0.1}]
    stopped, other = sweep.without_figures(results, [True, False])
    assert stopped.keys() == other.keys() and all(map(math.isnan, stopped.values()))
    assert other == results[1]


def test_a_mesh_is_refused(tmp_path):
    config = CONFIG.replace(mesh=MeshConfig(data=1, fsdp=2))
    with pytest.raises(ValueError, match="^mesh_fsdp: wanted 1, as a sweep runs on one device"):
        train_members(MODEL, config, small_task().make(), MEMBERS, tmp_path)


def test_float64_models_are_swept(x64):
    model = quick_config("float64")
    runs = Runs(model, TrainConfig(batch_size=8), grid([1e-3], [0.1], [0]))
    batch = next(iter(small_task().make().train_dataset(8)))
    state = runs.init()
    dtypes = [x.dtype for x in jax.tree.leaves(state)]
    state, losses = runs.train_steps(state, [batch])
    assert [x.dtype for x in jax.tree.leaves(state)] == dtypes and np.isfinite(losses).all()
