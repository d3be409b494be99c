# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The sweep command: its grid, its choice of the best, end to end."""

import json
import subprocess
import sys

import pytest

from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.sweep import RunTable
from experiments.flags import SWEEP, members_from_flags, run_config_from_flags
from experiments.presets import PRESETS
from experiments.sweep import best, sweep

PRESET = "state_tracking/parity"
CONFIG = PRESETS[PRESET]()


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("learning_rates", ["1e-2", "0.5"], [0.01, 0.5]),
        ("weight_decays", ["0", "0.3"], [0.0, 0.3]),
        ("seeds", ["7", "3"], [7, 3]),
    ],
)
def test_every_list_reaches_the_members_and_nothing_else(name, given, wanted):
    (own,) = members_from_flags({}, CONFIG)
    optimizer = CONFIG.train.optimizer
    assert own == (optimizer.learning_rate, optimizer.weight_decay, CONFIG.train.seed)
    field = name.removesuffix("s")
    members = members_from_flags({name: given}, CONFIG)
    assert members == [own._replace(**{field: value}) for value in wanted]
    assert set(SWEEP) == {f"{field}s" for field in own._fields}


def test_lists_are_combined():
    members = members_from_flags({"learning_rates": ["1", "2"], "seeds": ["0", "1", "2"]}, CONFIG)
    assert len(set(members)) == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rates": ["fast"]}, r"^learning_rates: wanted numbers \(float\), got fast"),
        ({"seeds": ["1.5"]}, r"^seeds: wanted numbers \(int\), got 1.5"),
        ({"seeds": ["1", "1"]}, "^seeds: wanted different numbers, at least one, got 1,1"),
        ({"seeds": ["1"], "seed": 3}, "^seed: wanted either --seed or --seeds, got both"),
        ({"keep_checkpoints": 3}, "^keep_checkpoints: wanted none, as a sweep keeps its newest"),
        (
            {"log_every_steps": 5},
            "^log_every_steps: wanted none, as a sweep logs evaluations alone",
        ),
        ({"seeds": []}, "^seeds: wanted different numbers, at least one, got "),
        ({"weight_decays": ["-1"]}, "^weight_decays: wanted numbers of at least 0, got -1"),
        ({"weight_decays": ["nan"]}, "^weight_decays: wanted numbers of at least 0, got nan"),
        ({"weight_decays": ["0", "nan"]}, "^weight_decays: wanted numbers of at least 0, got 0,n"),
        ({"learning_rates": ["1e-3", "inf"]}, "^learning_rates: wanted numbers of at least 0, got"),
        (
            {"learning_rates": ["1e-9"]},
            "^learning_rates: wanted at least min_learning_rate = 1e-06",
        ),
    ],
)
def test_impossible_lists_name_the_flag(values, message):
    with pytest.raises(ValueError, match=message):
        members_from_flags(values, CONFIG)


def row(learning_rate, seed, score, step=20_000, loss=1.0):
    return {
        "learning_rate": learning_rate,
        "weight_decay": 0.1,
        "seed": seed,
        "step": step,
        "loss": loss,
        "accuracy": 0.1,
        "accuracy_8x": score,
    }


def test_the_best_has_the_highest_mean_of_the_tasks_score_at_the_end():
    rows = [
        row(0.1, 0, 0.9), row(0.1, 1, 0.2),
        row(0.2, 0, 0.6), row(0.2, 1, 0.7),
        row(0.3, 0, 1.0), row(0.3, 1, 1.0, loss=None),
        row(0.4, 0, 1.0, step=10_000), row(0.4, 0, 0.1), row(0.4, 1, 0.1),
    ]  # fmt: skip
    assert best(rows, PRESETS["needle/t128"]()) == {
        "learning_rate": 0.2,
        "weight_decay": 0.1,
        "score_name": "accuracy_8x",
        "mean_score": pytest.approx(0.65),
        "scores": {"0": 0.6, "1": 0.7},
        "steps": {"0": 20_000, "1": 20_000},
    }


def test_early_stopping_goes_by_the_validation_figure():
    """RegBench: the row that validates best counts, with its figure on the test."""
    config = PRESETS["regbench/2500"]()
    rows = [
        row(0.1, 0, None, step) | {"validation_dfa_accuracy": validated, "dfa_accuracy": tested}
        for step, validated, tested in ((10, 0.5, 0.9), (20, 0.8, 0.7), (30, 0.6, 0.8))
    ]
    chosen = best(rows, config)
    assert (chosen["mean_score"], chosen["steps"]) == (0.7, {"0": 20})


def test_every_preset_reports_its_score():
    """The name by which a task's runs are compared is among its figures."""
    names = {PRESETS[name]().task.score_name for name in PRESETS}
    assert names == {"accuracy", "macro_accuracy", "dfa_accuracy", "accuracy_8x"}


def test_groups_cover_the_grid_and_another_grid_is_refused(tmp_path, monkeypatch):
    groups = {}
    figures = {"loss": 1.0, "accuracy_8x": 0.5, "validation_accuracy_8x": 0.6}

    def remember(model, config, task, members, workdir, *, name, goal, began):
        groups[name] = members
        table.write(config.num_steps, 1.0, members, [figures] * len(members))

    table = RunTable(tmp_path / "runs.jsonl")
    monkeypatch.setattr("experiments.sweep.train_members", remember)
    config = run_config_from_flags({"preset": PRESET, "num_train_examples": 4, "seq_len": 16})
    members = members_from_flags({"seeds": ["0", "1", "2", "3", "4"]}, config)
    result = sweep(config, members, tmp_path, at_once=2)
    assert groups == {"runs-0-1": members[:2], "runs-2-3": members[2:4], "runs-4-4": members[4:]}
    assert result["mean_score"] == 0.5 and len(result["scores"]) == 5
    with pytest.raises(ValueError, match="^workdir: .* holds a run with another config; differing"):
        sweep(config, members[:4], tmp_path, at_once=2)


def test_the_command(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "experiments.sweep", f"--preset={PRESET}"]
    command += [f"--workdir={tmp_path}", "--num_layers=1", "--d_model=8", "--num_heads=1"]
    command += ["--layer_pattern=linear_attention", "--mlp_hidden_size=0", "--seq_len=16"]
    command += ["--num_steps=4", "--eval_every_steps=2", "--warmup_steps=0", "--batch_size=4"]
    command += ["--num_train_examples=64", "--num_eval_examples=8", "--seeds=0,1"]
    done = subprocess.run([*command, "--learning_rates=1e-3,1e-2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = read_metrics(tmp_path / "runs.jsonl")
    assert [(r["step"], r["learning_rate"], r["seed"]) for r in rows] == [
        (step, rate, seed) for step in (2, 4) for rate in (1e-3, 1e-2) for seed in (0, 1)
    ]
    assert result["scores"].keys() == {"0", "1"} and 0 <= result["mean_score"] <= 1
