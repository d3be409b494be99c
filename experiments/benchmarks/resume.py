# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a large run that is resumed equals an unbroken one, and what --deterministic costs:

    python -m experiments.benchmarks.resume --record=FILE [--flag=value ...]

With --deterministic's compiler options and with XLA's own choice, each part in a process of its
own on one device: a run that saves halfway and goes on; the second half of it once more, from that
checkpoint; with XLA's own choice a second run too, for how far two runs come apart by themselves.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from deltanet_jax.train.evaluate import put_batch
from deltanet_jax.train.files import write_atomically
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.step import TrainState
from experiments import platform
from experiments.benchmarks.flags import define_resume_benchmark_flags
from experiments.benchmarks.records import machine
from experiments.command import run
from experiments.flags import explain
from experiments.logs import quiet_logs
from experiments.presets import PRESETS
from experiments.tasks.tokens.task import TokensConfig

SETTINGS = {"deterministic": ("unbroken", "resumed"), "default": ("unbroken", "resumed", "again")}
WARM_UP = 5  # steps that are not timed; the first compiles
TITLES = {"deterministic": "`--deterministic`", "default": "XLA's own choice"}


def fingerprint(state: TrainState) -> list[int]:
    """A number of 32 bits for each array: the sum of its words, each mixed with its place.

    A word that changes by itself always changes the number, for mixing (MurmurHash3's last steps)
    can be undone.
    """

    @jax.jit
    def of(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        words = x.astype(jnp.uint32)
        if jnp.issubdtype(x.dtype, jnp.floating):
            kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
            words = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
        words = words.reshape(-1) + jnp.uint32(0x9E3779B9) * jnp.arange(
            words.size, dtype=jnp.uint32
        )
        words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
        words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
        return jnp.sum(words ^ (words >> 16))

    return [int(of(leaf)) for leaf in jax.tree.leaves(state)]


def run_part(name: str, values: flags.FlagValues, folder: Path) -> dict:
    """Losses of every step, the state's fingerprint, tokens a second.

    Args:
        name: "unbroken" saves in `folder` after half of the steps and goes on; "resumed" begins
            from there; "again" does neither.
        values: the flags.
        folder: of the checkpoint.
    """
    model = PRESETS[values.preset]().model.replace(scan_unroll=1)
    if values.reduced:
        model = model.replace(num_layers=2, d_model=32, vocab_size=64, compute_dtype="float32")
    optimizer = OptimizerConfig(learning_rate=3e-4, warmup_steps=10, schedule="constant")
    config = TrainConfig(
        num_steps=values.steps,
        batch_size=values.rows,
        optimizer=optimizer,
        mesh=MeshConfig(data=1),
    )
    trainer = Trainer(model, config, jax.devices()[:1])
    task = TokensConfig(vocab_size=model.vocab_size, seq_len=values.columns).make()
    data = iter(task.train_dataset(values.rows))
    losses, half = [], values.steps // 2
    with Checkpoints(folder, int(name == "unbroken")) as checkpoints:
        if name == "resumed":
            first = checkpoints.newest()
            state = checkpoints.restore(first, trainer.abstract_state, data)
        else:
            first, state = 0, trainer.init()
        timed = first + WARM_UP
        for step in range(first, values.steps):
            if step == timed:
                jax.block_until_ready(state)
                began = time.perf_counter()
            state, metrics = trainer.train_step(state, put_batch(next(data), trainer.mesh))
            losses.append(metrics["loss"])
            if step + 1 == timed + values.steps // 4:
                jax.block_until_ready(state)
                seconds = time.perf_counter() - began
            if step + 1 == half and name == "unbroken":
                checkpoints.save(half, state, data)
    tokens = (values.steps // 4) * values.rows * values.columns
    return {
        "losses": [float(loss) for loss in losses],
        "state": fingerprint(state),
        "tokens_per_second": tokens / seconds,
        "parameters": sum(x.size for x in jax.tree.leaves(state.weights)),
    }


def run_setting(setting: str, command: list[str], folder: Path, progress: tqdm) -> dict:
    """All parts of a setting, one after another, each in a process; what they came to.

    Raises:
        RuntimeError: one of them failed, with what it said last.
    """
    results = {}
    for part in SETTINGS[setting]:
        began = time.perf_counter()
        done = subprocess.run(
            [*command, f"--part={setting}:{part}", f"--scratch_dir={folder}"],
            capture_output=True,
            text=True,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        if done.returncode:
            raise RuntimeError(f"{setting}, {part}:\n{done.stderr[-2000:]}")
        results[part] = json.loads(done.stdout.splitlines()[-1])
        progress.write(f"{setting}, {part}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        progress.update()
    shutil.rmtree(folder)
    return results


def differences(results: dict[str, dict]) -> dict:
    """How the other parts compare with the unbroken run: equal bits, and the loss at the end."""
    unbroken = results["unbroken"]
    found = {}
    for part, result in results.items():
        if part != "unbroken":
            same_losses = result["losses"] == unbroken["losses"][-len(result["losses"]) :]
            found[part] = {
                "equal": same_losses and result["state"] == unbroken["state"],
                "loss_difference": abs(result["losses"][-1] - unbroken["losses"][-1]),
            }
    return found


def table(record: dict) -> str:
    """Markdown, a line for each setting."""
    columns = ["compiler options", "tokens/s", "resumed: same bits", "its last loss differs by"]
    lines = ["| " + " | ".join([*columns, "two runs differ by"]) + " |", "|" + "---|" * 5]
    for setting, results in record["settings"].items():
        found = differences(results)
        speed = float(np.median([r["tokens_per_second"] for r in results.values()]))
        again = found.get("again")
        lines.append(
            f"| {TITLES[setting]} | {speed:,.0f} | {'yes' if found['resumed']['equal'] else 'no'} "
            f"| {found['resumed']['loss_difference']:.1e} "
            f"| {'–' if again is None else format(again['loss_difference'], '.1e')} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    quiet_logs()
    values = flags.FLAGS
    if values.part:
        setting, part = values.part.split(":")
        platform.configure(
            deterministic=setting == "deterministic",
            compilation_cache_dir=str(Path(values.scratch_dir).with_suffix(".cache")),
        )
        print(json.dumps(run_part(part, values, Path(values.scratch_dir))))
        return
    if wrong := set(values.settings) - SETTINGS.keys():
        sys.exit(f"error: --settings: wanted some of {list(SETTINGS)}, got {sorted(wrong)}")
    if values.preset not in PRESETS:
        sys.exit(f"error: --preset: wanted one of {sorted(PRESETS)}, got {values.preset!r}")
    if values.steps < 4 * WARM_UP:
        sys.exit(f"error: --steps: wanted at least {4 * WARM_UP}, got {values.steps}")
    command = [sys.executable, "-m", "experiments.benchmarks.resume"]
    names = ("preset", "steps", "rows", "columns")
    command += [f"--{name}={getattr(values, name)}" for name in names]
    command += [f"--reduced={values.reduced}"]
    record = {"settings": {}} | {name: getattr(values, name) for name in names}
    parts = sum(len(SETTINGS[setting]) for setting in values.settings)
    with (
        tempfile.TemporaryDirectory(prefix="deltanet-jax-", dir=values.scratch_dir) as folder,
        tqdm(total=parts, unit="part", file=sys.stderr) as progress,
    ):
        for setting in values.settings:
            try:
                results = run_setting(setting, command, Path(folder) / setting, progress)
            except RuntimeError as error:
                sys.exit(f"error: {explain(error)}")
            record["settings"][setting] = results
            print(table(record), flush=True)
            if values.record:
                text = json.dumps(record | {"machine": machine(values.commit)}, indent=1)
                write_atomically(Path(values.record), text + "\n")


if __name__ == "__main__":
    define_resume_benchmark_flags()
    run(main)
