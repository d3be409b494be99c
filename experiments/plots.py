# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures, drawn from recorded numbers."""

from pathlib import Path

import matplotlib.pyplot as plt

from experiments.tasks.mqar.task import MQARConfig

COLOURS = ("#1b6ca8", "#c8553d", "#5b8c5a", "#7a5195", "#e0a030")


def _figure(width: float = 6.0):
    figure, axes = plt.subplots(figsize=(width, 3.6), dpi=150, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def save_accuracy_plot(
    path: Path, curves: dict[str, list[tuple[int, float]]], task: MQARConfig
) -> Path:
    """Held-out accuracy against steps, a line a model."""
    figure, axes = _figure()
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        steps, accuracies = zip(*points, strict=True)
        percent = [100 * a for a in accuracies]
        axes.plot(steps, percent, label=name, color=colour, marker="o", markersize=3)
    axes.set_xlabel("training steps")
    axes.set_ylabel("held-out accuracy (%)")
    axes.set_title(
        f"Associative recall: {task.num_kv_pairs} pairs in {task.seq_len} tokens", fontsize=10
    )
    axes.set_ylim(-2, 102)
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)
    return path


def save_loss_plot(path: Path, rows: list[dict]) -> Path:
    """Bits per byte against steps: training loss as a line, evaluations as points."""
    figure, axes = _figure()
    nats = 0.6931471805599453
    train = [(r["step"], r["train/loss"] / nats) for r in rows if "train/loss" in r]
    held = [(r["step"], r["eval/bits_per_byte"]) for r in rows if "eval/bits_per_byte" in r]
    axes.plot(*zip(*train, strict=True), color=COLOURS[0], lw=0.8, alpha=0.6, label="training")
    axes.plot(*zip(*held, strict=True), color=COLOURS[1], marker="o", label="held out")
    axes.set_xlabel("training steps")
    axes.set_ylabel("bits per byte")
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)
    return path


def save_speedup_plot(path: Path, rows: list[dict], device: str) -> Path:
    """Speed of the chunkwise over the recurrent form by length, a line a head size."""
    figure, axes = _figure()
    for colour, size in zip(COLOURS, sorted({r["head_dim"] for r in rows}), strict=False):
        points = sorted((r["length"], r["speedup"]) for r in rows if r["head_dim"] == size)
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=f"head size {size}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("sequence length")
    axes.set_ylabel("recurrent time / chunkwise time")
    axes.set_title(f"Forward and backward of the delta rule, {device}", fontsize=9)
    axes.axhline(1, color="black", lw=0.8)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)
    return path
