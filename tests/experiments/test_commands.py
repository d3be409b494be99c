# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The commands, end to end and small, as a user runs them: each in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import types

import pytest

from deltanet_jax.train.loop import train
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.stop import INTERRUPTED
from experiments.evaluate import evaluate_run, wants_sample
from experiments.flags import run_config_from_flags
from experiments.presets import PRESETS

SMALL = [
    "--num_steps=4",
    "--warmup_steps=1",
    "--batch_size=4",
    "--eval_every_steps=2",
    "--d_model=16",
    "--num_layers=2",
]

PRESET = "mqar/small-linear_attention"

# What users have in their environment and must find nowhere else.
SECRET = "canary-3f9a1c"
SECRETS = {"HF_TOKEN": SECRET, "WANDB_API_KEY": SECRET}


def run(module, *arguments):
    command = [sys.executable, "-W", "error", "-m", f"experiments.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | SECRETS)
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


AFTER_TRAINING = """
import sys, time
from absl import app
import experiments.main as main
main.train = lambda *_, **__: {}
main.restore_weights = lambda *_: (print("restoring", flush=True), time.sleep(60))
main.define_workdir(), main.define_preset(required=False), main.define_run_flags()
main.define_sample_flags(), main.define_platform_flags()
app.run(main.main)
"""


def test_a_signal_after_training_ends_the_run_with_its_code(tmp_path):
    """While weights for the sample are restored, within Orbax's own loop of events."""
    (tmp_path / "text.txt").write_text("abab" * 500)
    command = [sys.executable, "-c", AFTER_TRAINING, f"--data={tmp_path / 'text.txt'}", *SMALL]
    command += ["--preset=language_modeling/small-hybrid", "--seq_len=32", f"--workdir={tmp_path}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["{}\n", "restoring\n"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == INTERRUPTED, process.stderr.read()


def test_secrets_of_the_environment_are_in_no_output(language_model):
    workdir, done = language_model
    assert SECRET not in done.stdout + done.stderr
    files = [p for p in workdir.rglob("*") if p.is_file()]
    assert len(files) > 10
    assert not [p for p in files if SECRET.encode() in p.read_bytes()]


def test_verify_lists_the_checkpoints(language_model):
    workdir, _ = language_model
    done = run("verify", f"--workdir={workdir}")
    (line,) = done.stdout.splitlines()
    assert line.split() == ["4", line.split()[1], "bytes", "intact"]


def test_evaluation_in_a_new_process_gives_the_same_bits_and_the_same_sample(language_model):
    workdir, trained = language_model
    done = run("evaluate", f"--workdir={workdir}", "--sample_tokens=12")
    trained_result, *trained_sample = trained.stdout.splitlines()
    result, *sample = done.stdout.splitlines()
    assert json.loads(result) == {"step": 4} | json.loads(trained_result)
    assert sample == trained_sample


def test_generate_continues_the_prompts_of_a_file(language_model, tmp_path):
    workdir, _ = language_model
    (tmp_path / "prompts.txt").write_text("ab\nabab ab\n")
    done = run(
        "generate",
        f"--workdir={workdir}",
        f"--prompts_file={tmp_path / 'prompts.txt'}",
        "--sample_tokens=5",
        "--top_k=1",
        "--top_p=0.9",
        "--stop=zz",
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == ["ab", "abab ab"]
    assert all(len(row["completion"]) <= 5 for row in rows)


@pytest.mark.slow
def test_generate_shows_what_a_model_writes(language_model):
    workdir, trained = language_model
    options = ["--sample_tokens=12", "--temperature=0.8"]
    done = run("generate", f"--workdir={workdir}", "--prompt=", *options)
    _, _, *sample = trained.stdout.splitlines()
    assert done.stdout.splitlines() == sample[:-1]
    assert "using implementation" not in done.stderr  # a terminal shows both


def test_a_prompt_for_what_is_no_run_of_bytes_is_refused():
    """It was passed over, and no sample printed."""
    values = types.SimpleNamespace(prompt="", sample_tokens=9)
    tokens, text = PRESETS["deltanet_340m"](), PRESETS["language_modeling/small"]()
    assert wants_sample(text, values) and not wants_sample(tokens, values)
    values.prompt = "def "
    assert wants_sample(text, values)
    with pytest.raises(ValueError, match="^prompt: wanted a run on bytes, .* the task 'tokens'"):
        wants_sample(tokens, values)


def test_evaluation_without_a_run_is_refused(tmp_path):
    command = [sys.executable, "-m", "experiments.evaluate", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: --workdir: wanted the directory of a run" in done.stderr


@pytest.mark.slow
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


def test_two_processes_of_two_devices_equal_one_process(tmp_path):
    """The same losses; the checkpoint is written once, and one process restores it."""
    options = {
        "num_steps": 4,
        "warmup_steps": 1,
        "batch_size": 8,
        "eval_every_steps": 2,
        "d_model": 16,
        "num_layers": 2,
        "mlp_hidden_size": 0,
        "num_train_examples": 16,
        "num_eval_examples": 8,
        "log_every_steps": 1,
        "mesh_fsdp": 2,
        "mesh_data": 2,
    }
    command = [sys.executable, "-W", "error", "-m", "experiments.main", f"--preset={PRESET}"]
    command += [f"--workdir={tmp_path / 'two'}", *(f"--{k}={v}" for k, v in options.items())]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [*command, f"--distributed={address},2,{i}"],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, error) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, error
    assert "loss" in outputs[0][0] and "loss" not in outputs[1][0]

    one = run_config_from_flags({"preset": PRESET} | options | {"mesh_data": 4})  # of 8 devices
    train(one.model, one.train, one.task.make(), tmp_path / "one")

    def losses(name):
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        return [{k: v for k, v in r.items() if not k.startswith("perf/")} for r in rows]

    for found, wanted in zip(losses("two"), losses("one"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)
    result, _, _ = evaluate_run(tmp_path / "two")
    assert result["loss"] == pytest.approx(losses("one")[-1]["eval/loss"])
