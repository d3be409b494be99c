# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The main job in one command: python -m experiments.demo

Trains DeltaNet and additive linear attention on multi-query associative recall, compares the
trained layer with `lax.scan`, restores the checkpoint in a new process, evaluates again, and draws
accuracy against steps. Writes runs/demo/<time>/ with the two runs, summary.json and accuracy.png.
"""

import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import matplotlib
import numpy as np
from absl import flags
from flax import nnx

from deltanet_jax.train.loop import Trainer, train
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.step import model_graph
from deltanet_jax.train.task import eval_batches
from experiments.command import run
from experiments.flags import define_demo_flags
from experiments.logs import quiet_logs
from experiments.plots import save_accuracy_plot
from experiments.presets import PRESETS
from experiments.restored import restore_weights
from experiments.run_config import RunConfig
from pallas_kernels import delta_rule
from pallas_kernels._common.timing import machine_info

RUNS = {
    "DeltaNet": "mqar/small-delta_net",
    "additive linear attention": "mqar/small-linear_attention",
}
NEXT = (
    "python -m experiments.compare",
    "python -m experiments.main --preset=language_modeling/small --workdir=runs/lm",
    "python -m experiments.main --preset=mqar/small-delta_net --workdir=runs/mqar --num_kv_pairs=4",
)


def compare_with_scan(config: RunConfig, weights: dict) -> float:
    """RMS ratio of "xla" to the `lax.scan` definition on the trained first layer's inputs."""
    model = nnx.merge(model_graph(config.model), weights)
    batch = next(iter(eval_batches(config.task.make(), config.train.batch_size)))
    graph, stacked = nnx.split(model.period[0])
    block = nnx.merge(graph, jax.tree.map(lambda x: x[0], stacked))
    x = block.mixer_norm(model.embed(batch["inputs"]))
    q, k, v, _ = block.mixer.qkv(x, segment_ids=None, state=None)
    beta = block.mixer.beta(x)
    chunkwise, definition = (
        np.asarray(delta_rule(q, k, v, beta, implementation=name).output, np.float64)
        for name in ("xla", "reference")
    )
    return float(np.linalg.norm(chunkwise - definition) / np.linalg.norm(definition))


def evaluate_in_new_process(workdir: Path) -> dict:
    """The figures that experiments.evaluate prints for `workdir`."""
    command = [sys.executable, "-m", "experiments.evaluate", f"--workdir={workdir}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[0])


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    start = time.perf_counter()
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    directory = Path(flags.FLAGS.output_dir) / now
    results: dict[str, dict] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, preset in RUNS.items():
        config = PRESETS[preset]()
        workdir = directory / preset.replace("/", "-")
        result = train(
            config.model,
            config.train,
            config.task.make(),
            workdir,
            record=config,
            name=name,
        )
        rows = read_metrics(workdir / "metrics.jsonl")
        curves[name] = [(r["step"], r["eval/accuracy"]) for r in rows if "eval/accuracy" in r]
        results[name] = {"trained": result, "restored": evaluate_in_new_process(workdir)}

    config = PRESETS[RUNS["DeltaNet"]]()
    workdir = directory / RUNS["DeltaNet"].replace("/", "-")
    _, weights = restore_weights(workdir, Trainer(config.model, config.train))
    error = compare_with_scan(config, weights)
    picture = save_accuracy_plot(directory / "accuracy.png", curves, config.task)
    seconds = time.perf_counter() - start
    summary = {
        "results": results,
        "rms_ratio_to_scan": error,
        "seconds": round(seconds, 1),
        "machine": machine_info(),
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")

    print(f"\nAccuracy on {config.task.num_eval_examples} held-out sequences:")
    equal = True
    for name, r in results.items():
        same = all(r["restored"][k] == v for k, v in r["trained"].items())
        equal &= same
        print(
            f"  {name:26} {r['trained']['accuracy']:7.2%}   restored in a new process: "
            f"{r['restored']['accuracy']:7.2%} ({'equal, bit for bit' if same else 'DIFFERS'})"
        )
    print(f"Trained layer, chunkwise against lax.scan: RMS ratio {error:.1e}")
    print(f"Picture: {picture}\nRecord:  {directory / 'summary.json'}\nTook {seconds:.0f} s.")
    print("\nTry next (in this environment: . .venv/bin/activate):")
    for command in NEXT:
        print(f"  {command}")
    if not equal or error > 1e-5:
        sys.exit("error: the restored run or the chunkwise form does not agree")


if __name__ == "__main__":
    matplotlib.use("Agg")
    define_demo_flags()
    run(main)
