# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Faults on GPUs: exact resume, saves beside steps, memory that runs out, processes that die.

Run with `pytest -m gpu`. What is compared is compared on any device; limits of time and memory
hold on GPUs.
"""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.model import ModelConfig
from deltanet_jax.presets import transformer_1b3
from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train import loop
from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from deltanet_jax.train.evaluate import put_batch
from deltanet_jax.train.loop import Trainer, train
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.stop import INTERRUPTED
from experiments.benchmarks.resume import fingerprint
from experiments.run_config import read_run_config
from experiments.tasks.tokens.task import TokensConfig
from tests.helpers.compare import equal_bits
from tests.helpers.tasks import Wrapped, without_speed
from tests.helpers.topology import hand_on

pytestmark = pytest.mark.gpu
GPU = jax.default_backend() == "gpu"
needs_two = pytest.mark.skipif(GPU and jax.device_count() < 2, reason="needs two GPUs")

# XLA has no such products on CPUs.
DTYPE = "bfloat16" if GPU else "float32"
# Heads that the Hopper kernels take.
SMALL = ModelConfig(
    vocab_size=512,
    d_model=256,
    num_layers=2,
    layer_pattern=(DeltaNetConfig(num_heads=2),),
    compute_dtype=DTYPE,
)
# Compiled in a quarter of the time, for what is not about the mixer.
PLAIN = SMALL.replace(layer_pattern=(AttentionConfig(num_heads=2),))
TASK = TokensConfig(vocab_size=512, seq_len=128)
CONFIG = TrainConfig(
    num_steps=6,
    batch_size=8,
    log_every_steps=1,
    checkpoint_every_steps=2,
    mesh=MeshConfig(data=1),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant"),
)
COMMAND = (
    "--num_layers=2",
    "--d_model=256",
    "--num_heads=2",
    "--scan_unroll=1",
    f"--compute_dtype={DTYPE}",
    "--vocab_size=512",
    "--seq_len=256",
    "--batch_size=8",
    "--accumulation_steps=1",
    "--embed_dropout=0.1",
    "--max_eval_windows=8",
    "--warmup_steps=1",
    "--log_every_steps=1",
    "--eval_every_steps=0",
    "--checkpoint_every_steps=20",
)
ATTENTION = "transformer_1b3"  # its preset, to be made small by COMMAND


@dataclasses.dataclass
class Process:
    """experiments.main in a process; what it says goes into a file, so that no pipe fills up."""

    popen: subprocess.Popen
    said: Path

    def end(self, seconds=300):
        """(exit code, what it said)."""
        self.popen.wait(seconds)
        return self.popen.returncode, self.said.read_text()


@pytest.fixture
def start(tmp_path):
    """Starts experiments.main on one device, beside what this process has taken of its memory."""
    started = []

    def run(workdir, *arguments, preset="deltanet_340m", device=0, memory=None):
        settings = {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")[
                device
            ],
            "JAX_NUM_CPU_DEVICES": "1",
        }
        if memory is not None:
            settings["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(memory)
        command = [sys.executable, "-m", "experiments.main", f"--preset={preset}"]
        command += [f"--workdir={workdir}", *COMMAND, *arguments]
        said = tmp_path / f"said{len(started)}.txt"
        with said.open("w") as file:
            popen = subprocess.Popen(
                command, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=file
            )
        started.append(Process(popen, said))
        return started[-1]

    yield run
    for process in started:
        process.popen.kill()
        process.popen.wait()


def state_at(workdir, step):
    config = read_run_config(workdir)
    trainer = Trainer(config.model, config.train, jax.devices()[:1])
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.newest() == step
        return checkpoints.restore(step, trainer.abstract_state)


def wait_for(happened, processes, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        for process in processes:
            assert process.popen.poll() is None, process.said.read_text()
        time.sleep(0.02)
    assert happened()


def rows_of(workdir):
    path = workdir / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def test_a_stopped_run_equals_an_unbroken_one_bit_for_bit_with_deterministic_flags(start, tmp_path):
    """G1: three processes, 200 steps; the second one is stopped, the third one ends its run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ("--num_steps=200", "--mesh_data=1", "--deterministic")
    flags += (f"--compilation_cache_dir={tmp_path / 'cache'}",)
    processes = [start(workdir, *flags) for workdir in (whole, parts)]
    wait_for(lambda: len(rows_of(parts)) > 30, processes[1:])
    processes[1].popen.send_signal(signal.SIGTERM)
    ends = [process.end() for process in processes]
    assert [code for code, _ in ends] == [0, INTERRUPTED], ends
    ends = start(parts, *flags).end()
    assert ends[0] == 0, ends
    assert equal_bits(state_at(whole, 200), state_at(parts, 200))
    assert without_speed(rows_of(whole)) == without_speed(rows_of(parts))


class Large:
    """The 1.3B Transformer on a GPU, 16 GB with its optimiser; a small one elsewhere."""

    def __init__(self):
        model = transformer_1b3().replace(scan_unroll=1, remat="full") if GPU else PLAIN
        config = CONFIG.replace(batch_size=4 if GPU else 2)
        self.trainer = Trainer(model, config, jax.devices()[:1])
        task = TokensConfig(vocab_size=model.vocab_size, seq_len=2048 if GPU else 64).make()
        self.data = iter(task.train_dataset(config.batch_size))
        self.batch = put_batch(next(self.data), self.trainer.mesh)
        self.state = self.trainer.init()
        self.seconds(3)  # which compiles

    def seconds(self, steps):
        """Of a step, over `steps` of them that the device has one after another."""
        jax.block_until_ready(self.state)
        began = time.perf_counter()
        for _ in range(steps):
            self.state, _ = self.trainer.train_step(self.state, self.batch)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - began) / steps


def test_a_save_lets_the_steps_beside_it_be(tmp_path):
    """G2: a hundred steps while a state is copied, hashed and written, against others about them.

    A GPU that has just begun is faster than one at work: what comes first is not counted.
    """
    large = Large()
    few, many = (40, 100) if GPU else (2, 4)
    fingerprint(large.state)  # which compiles
    with Checkpoints(tmp_path, 1) as checkpoints:
        large.seconds(many)
        before = large.seconds(few)
        wanted = fingerprint(large.state)
        began = time.perf_counter()
        checkpoints.save(1, large.state, large.data)
        blocked = time.perf_counter() - began
        during = large.seconds(many)
        began = time.perf_counter()
        checkpoints.wait()
        left = time.perf_counter() - began
        after = large.seconds(few)
        restored = checkpoints.restore(checkpoints.newest(), large.trainer.abstract_state)
    assert fingerprint(restored) == wanted
    rise = during / ((before + after) / 2) - 1
    figures = f"blocked {blocked:.2f} s; {before:.4f} s a step before, {during:.4f} during, "
    figures += f"{after:.4f} after; {left:.1f} s from the last one to the save's end"
    print(figures)
    if GPU:
        assert blocked <= 1.0 and rise <= 0.02, figures


def test_memory_that_runs_out_costs_no_checkpoint(tmp_path, monkeypatch):
    """G3: another program's arrays fill the device in the middle of a run."""
    config = CONFIG.replace(batch_size=1024 if GPU else 8)  # some GiB of activations
    monkeypatch.setattr(loop, "Trainer", functools.cache(one_device))
    whole = train(PLAIN, config, TASK.make(), tmp_path / "whole")
    taken = []

    def take(number, batch):
        if number == 4:
            if not GPU:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # there is no more
                while True:
                    taken.append(jax.block_until_ready(jnp.zeros(2**29, jnp.uint8)))
        return batch

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        train(PLAIN, config, Wrapped(TASK.make(), take), tmp_path / "parts")
    assert bool(taken) == GPU
    taken.clear()
    abstract_state = loop.Trainer(PLAIN, config).abstract_state

    def state_of(name, step):
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            assert checkpoints.newest() == step
            return checkpoints.restore(step, abstract_state)

    state_of("parts", 2)
    assert train(PLAIN, config, TASK.make(), tmp_path / "parts") == whole
    assert equal_bits(state_of("whole", 6), state_of("parts", 6))


@pytest.mark.skipif(not GPU, reason="a CPU has no limit of its own")
def test_a_batch_that_does_not_fit_is_refused_with_what_it_needs(start, tmp_path):
    """G3: a million tokens a step in a hundredth of the device's memory."""
    flags = ("--mesh_data=1", "--batch_size=4096")
    process = start(tmp_path / "run", *flags, preset=ATTENTION, memory=0.01)
    code, said = process.end()
    assert code == 1 and "Traceback" not in said, said
    assert "error: --batch_size: device memory ran out; the run needs about" in said


def one_device(model, config):
    return Trainer(model, config, jax.devices()[:1])


@needs_two
def test_two_devices_then_one_then_two_go_on_alike(tmp_path):
    """G4: fsdp in bfloat16, 50 steps in all; the state comes back bit for bit each time."""
    two, one = MeshConfig(data=1, fsdp=2), MeshConfig(data=1)
    steps = 17 if GPU else 3
    task = TASK.make()
    losses, rows = hand_on(SMALL, CONFIG, task, tmp_path / "a", (two, one, two), steps)
    wanted, wanted_rows = hand_on(SMALL, CONFIG, task, tmp_path / "b", (one,), 3 * steps)
    assert rows == wanted_rows
    np.testing.assert_allclose(losses, wanted, rtol=1e-3)


HEARTBEAT = 10


@needs_two
def test_a_killed_process_ends_the_other_and_both_start_again(start, tmp_path):
    """G5: one process for each device; the survivor ends within the heartbeat and 10 s."""
    workdir = tmp_path / "run"

    def pair():
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        flags = (f"--num_steps={5000 if GPU else 300}", "--mesh_data=2")
        flags += (f"--heartbeat_seconds={HEARTBEAT}",)
        flags += (f"--compilation_cache_dir={tmp_path / 'cache'}",)
        return [
            start(workdir, *flags, f"--distributed={address},2,{i}", preset=ATTENTION, device=i)
            for i in range(2)
        ]

    processes = pair()
    wait_for((workdir / "checkpoints" / "20").exists, processes)
    processes[1].popen.kill()
    began = time.monotonic()
    code, said = processes[0].end()
    assert time.monotonic() - began < HEARTBEAT + 10
    assert code != 0, said
    steps = rows_of(workdir)[-1]["step"]
    processes = pair()
    wait_for(lambda: rows_of(workdir)[-1]["step"] > steps, processes)
    processes[0].popen.send_signal(signal.SIGTERM)
    ends = [process.end() for process in processes]
    assert [code for code, _ in ends] == [INTERRUPTED] * 2, ends
    assert "resumed" in ends[0][1]


EVALUATES = """
import json
import jax
import numpy as np
from flax import nnx
from deltanet_jax.generate import generate
from deltanet_jax.train.evaluate import evaluate, put_batch
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.step import model_graph
from tests.helpers.compare import equal_bits
from tests.deltanet_jax.train.test_faults_gpu import CONFIG, GPU, SMALL, TASK

model = SMALL.replace(num_layers=8, d_model=512) if GPU else SMALL
task = TASK.replace(seq_len=1024 if GPU else 32).make()
trainer = Trainer(model, CONFIG, jax.devices()[:1])
state, data = trainer.init(), iter(task.train_dataset(8))

def step(state):
    return trainer.train_step(state, put_batch(next(data), trainer.mesh))[0]

def peak():
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

for _ in range(3):
    state = step(state)
before, peak_before = jax.tree.map(np.array, state), peak()
result = evaluate(trainer.eval_step, state.weights, task, 8, trainer.mesh)
language_model = nnx.merge(model_graph(model), state.weights)
tokens = generate(language_model, [[1] * 16] * 2, 32, key=jax.random.key(0))
same, changed = equal_bits(state, before), not equal_bits(step(state), before)
print(json.dumps([result["loss"], tokens.shape, same, changed, peak_before, peak()]))
"""


def test_evaluation_and_generation_leave_the_state_and_its_memory_alone():
    """G6: in a process of its own, whose peak of memory is its own too."""
    settings = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-c", EVALUATES]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        command, env=os.environ | settings, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loss, shape, same, changed, before, after = json.loads(done.stdout.splitlines()[-1])
    assert np.isfinite(loss) and shape == [2, 32]
    assert same and changed  # and the comparison sees a step
    assert after <= 1.05 * before, f"peak {before} before, {after} after"
