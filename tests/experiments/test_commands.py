# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The commands, end to end and small, as a user runs them: each in a process of its own."""

import json
import subprocess
import sys

import pytest

from deltanet_jax.train.metrics import read_metrics

SMALL = [
    "--num_steps=4",
    "--warmup_steps=1",
    "--batch_size=4",
    "--eval_every_steps=2",
    "--d_model=16",
    "--num_layers=2",
]


def run(module, *arguments):
    command = [sys.executable, "-W", "error", "-m", f"experiments.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text("abab" * 500)
    workdir = folder / "run"
    done = run(
        "main",
        "--preset=language_modeling/small-hybrid",
        f"--workdir={workdir}",
        f"--data={folder / 'text.txt'}",
        "--seq_len=32",
        "--sample_tokens=12",
        *SMALL,
    )
    return workdir, done


def test_training_prints_figures_a_sample_and_progress(language_model):
    workdir, done = language_model
    first, header, *_ = done.stdout.splitlines()
    result = json.loads(first)
    assert result["bits_per_byte"] > 0
    assert header == "--- 12 bytes sampled at temperature 0.8"
    assert "loss" in done.stderr and "4/4" in done.stderr
    last = read_metrics(workdir / "metrics.jsonl")[-1]
    assert last["eval/bits_per_byte"] == result["bits_per_byte"]


def test_evaluation_in_a_new_process_gives_the_same_bits_and_the_same_sample(language_model):
    workdir, trained = language_model
    done = run("evaluate", f"--workdir={workdir}", "--sample_tokens=12")
    trained_result, *trained_sample = trained.stdout.splitlines()
    result, *sample = done.stdout.splitlines()
    assert json.loads(result) == {"step": 4} | json.loads(trained_result)
    assert sample == trained_sample


def test_evaluation_without_a_run_is_refused(tmp_path):
    command = [sys.executable, "-m", "experiments.evaluate", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: --workdir: wanted the directory of a run" in done.stderr


def test_compare_writes_table_picture_and_record(tmp_path):
    done = run(
        "compare",
        f"--output_dir={tmp_path}",
        "--lengths=64",
        "--head_dims=16",
        "--heads=2",
        "--repetitions=1",
    )
    assert "| 64 | 16 |" in done.stdout
    record = json.loads((tmp_path / "record.json").read_text())
    (row,) = record["rows"]
    assert max(row["rms_errors"].values()) < 1e-5
    assert (tmp_path / "speedup.png").read_bytes().startswith(b"\x89PNG")
