# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Times training steps of whole models: python -m experiments.benchmarks.train --record_dir=DIR

For every preset and batch (rows x tokens), each in a process of its own: real optimiser steps of
the training loop's own program on random tokens that differ from step to step; FLA's model beside
it where FLA is (train_fla.py). Seconds of every step after the first two (host clock; metrics are
read one step late, as in training), tokens a second, MFU, peak memory, seconds from nothing
compiled to the first step's end. Rows are JSON lines, written as they are finished.
"""

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from deltanet_jax import accounting
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.sharding import MESH_AXES, MeshConfig
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from deltanet_jax.train.evaluate import put_batch
from deltanet_jax.train.loop import Trainer
from experiments.benchmarks import records
from experiments.benchmarks.flags import define_train_benchmark_flags
from experiments.command import run
from experiments.flags import explain
from experiments.logs import quiet_logs
from experiments.presets import PRESETS
from experiments.tasks.tokens.task import TokensConfig

WARM_UP = 2  # steps that are not timed; the first compiles


@dataclasses.dataclass(frozen=True)
class Case:
    """What one process times.

    Attributes:
        preset: whose model.
        implementation: "ours" or "fla".
        rows, columns: of the batch, tokens = rows x columns.
        param_dtype: of stored weights and so of the optimiser's state.
        remat, scan_unroll: of ModelConfig.
        residuals: of DeltaNetConfig.
        mesh: devices along each axis; their product is how many are used.
        steps: timed.
    """

    preset: str
    implementation: str
    rows: int
    columns: int
    param_dtype: str
    remat: str
    scan_unroll: int
    residuals: str
    mesh: dict[str, int]
    steps: int


def make_trainer(case: Case, **changes) -> tuple[Trainer, TrainConfig]:
    """What a case trains with; `changes` of the model are for trying out."""
    model = PRESETS[case.preset]().model
    pattern = tuple(
        mixer.replace(residuals=case.residuals) if isinstance(mixer, DeltaNetConfig) else mixer
        for mixer in model.layer_pattern
    )
    options = {name: getattr(case, name) for name in ("param_dtype", "remat", "scan_unroll")}
    model = model.replace(layer_pattern=pattern, **options, **changes)
    config = TrainConfig(
        num_steps=1000,
        batch_size=case.rows,
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10),
        mesh=MeshConfig(**case.mesh),
    )
    devices = jax.devices()[: math.prod(case.mesh.values())]
    return Trainer(model, config, devices), config


def time_ours(case: Case, **changes) -> dict[str, object]:
    """One row; `changes` as of `make_trainer`."""
    start = time.perf_counter()
    trainer, _ = make_trainer(case, **changes)
    model = trainer.model_config
    task = TokensConfig(vocab_size=model.vocab_size, seq_len=case.columns).make()
    data = iter(task.train_dataset(case.rows))
    state = trainer.init()
    seconds, losses, last, pending = [], [], time.perf_counter(), None
    for step in range(WARM_UP + case.steps + 1):
        batch = put_batch(next(data), trainer.mesh)
        state, metrics = trainer.train_step(state, batch)
        if pending is not None:
            losses.append(float(pending["loss"]))
            now = time.perf_counter()
            if step == 1:
                first = now - start
            if step > WARM_UP:
                seconds.append(now - last)
            last = now
        pending = metrics
    memory = jax.local_devices()[0].memory_stats() or {}
    cost = accounting.cost(model, case.columns)
    return make_row(
        case,
        seconds,
        losses,
        peak_flops=accounting.peak_flops(trainer.mesh.devices.flat),
        first_step_s=first,
        peak_memory_bytes=memory.get("peak_bytes_in_use"),
        flops_per_token=cost.flops,
    )


def make_row(
    case: Case,
    seconds: list[float],
    losses: list[float],
    peak_flops: float | None,
    **facts,
) -> dict[str, object]:
    """The record of a case; raises if the model did not learn what random tokens can teach."""
    if not np.isfinite(losses).all() or not losses[-1] < losses[0]:
        raise FloatingPointError(f"{case}: losses {losses[0]} to {losses[-1]}")
    median = statistics.median(seconds)
    low, high = np.percentile(seconds, [10, 90])
    speed = case.rows * case.columns / median
    return {
        **dataclasses.asdict(case),
        "step_s": [round(s, 5) for s in seconds],
        "median_step_s": round(median, 5),
        "spread_s": round(float(high - low), 5),
        "tokens_per_second": round(speed, 1),
        "mfu": None
        if peak_flops is None
        else round(speed * facts["flops_per_token"] / peak_flops, 4),
        "losses": [round(x, 4) for x in losses],
        **facts,
    }


def cases(values: flags.FlagValues) -> list[Case]:
    """From the flags. Raises ValueError with the flag's name."""
    found = []
    names = ("param_dtype", "remat", "scan_unroll", "residuals", "steps")
    options = {name: getattr(values, name) for name in names}
    mesh = {axis: getattr(values, f"mesh_{axis}") for axis in MESH_AXES}
    for preset in values.presets:
        if preset not in PRESETS:
            raise ValueError(f"presets: wanted some of {sorted(PRESETS)}, got {preset!r}")
        for shape in values.shapes:
            try:
                rows, columns = (int(x) for x in shape.split("x"))
            except ValueError:
                raise ValueError(f"shapes: wanted ROWSxTOKENS, got {shape!r}") from None
            for implementation in values.implementations:
                if implementation not in ("ours", "fla"):
                    raise ValueError(f"implementations: wanted ours, fla, got {implementation!r}")
                if implementation == "fla" and preset != "deltanet_1b3":
                    continue  # the model whose sizes train_fla.py has
                found.append(Case(preset, implementation, rows, columns, mesh=mesh, **options))
    return found


def run_case(case: Case, timeout: float) -> dict[str, object]:
    """The row of a case, from a process of its own. Raises RuntimeError if it fails."""
    module = "train" if case.implementation == "ours" else "train_fla"
    command = [sys.executable, "-m", f"experiments.benchmarks.{module}"]
    command.append(f"--case={json.dumps(dataclasses.asdict(case))}")
    # Beside PyTorch, JAX counts operations and must leave the GPU alone.
    environment = os.environ | ({} if case.implementation == "ours" else {"JAX_PLATFORMS": "cpu"})
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{case}: not done after {timeout} s") from None
    if done.returncode:
        raise RuntimeError(f"{case}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    if values.case:
        print(json.dumps(time_ours(Case(**json.loads(values.case)))))
        return
    try:
        wanted = cases(values)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    failures = []
    for case in tqdm(wanted, unit="case", file=sys.stderr):
        try:
            row = run_case(case, values.case_seconds)
        except RuntimeError as error:
            failures.append(str(error))
            tqdm.write(f"FAILED {error}", file=sys.stderr)
            continue
        memory = row["peak_memory_bytes"]
        devices = math.prod(case.mesh.values())
        tqdm.write(
            f"{case.preset} {case.rows}x{case.columns} {case.implementation} {case.param_dtype} "
            f"on {devices}: "
            f"{row['tokens_per_second']:,.0f} tokens/s, {row['median_step_s'] * 1e3:.1f} ms a step "
            f"(spread {row['spread_s'] * 1e3:.1f}), MFU {row['mfu'] or 0:.1%}, "
            f"{(memory or 0) / 2**30:.1f} GiB, first step {row['first_step_s']:.0f} s",
            file=sys.stdout,
        )
        sys.stdout.flush()
        if values.record_dir:
            write(Path(values.record_dir), row | records.machine(values.commit))
    if failures:
        sys.exit("\n".join(["error: not all cases are there:", *failures]))


def write(folder: Path, row: dict[str, object]) -> None:
    """Appends a row to DIR/DEVICE/train.jsonl."""
    records.append_line(records.path_of(folder, row | {"op": "train"}), row)


if __name__ == "__main__":
    define_train_benchmark_flags()
    run(main)
