# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures, drawn from recorded numbers."""

import itertools
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
    for colour, (name, points) in zip(itertools.cycle(COLOURS), curves.items(), strict=False):
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
    sizes = sorted({r["head_dim"] for r in rows})
    for colour, size in zip(itertools.cycle(COLOURS), sizes, strict=False):
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


def save_times_plot(path: Path, cases: dict[tuple, dict[str, dict]], ours: tuple[str, ...]) -> Path:
    """Milliseconds against length, a panel a head size: ours, FLA's and the floor.

    `cases`: (sizes [B, T, H, K, V], mode) -> implementation -> row; `ours`: our implementations.
    """
    sizes = sorted({shape[-1] for shape, _ in cases})
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(1 + 4 * len(sizes), 3.6), dpi=150, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axes, size in zip(panels[0], sizes, strict=True):
        for style, mode in (("-", "forward"), ("--", "forward_and_vjp")):
            curves: dict[str, list[tuple[int, float]]] = {}
            for (shape, of_mode), found in cases.items():
                if shape[-1] != size or of_mode != mode:
                    continue
                for name, row in found.items():
                    label = "ours" if name in ours else name
                    curves.setdefault(label, []).append((shape[1], row["median_ms"]))
                    if name in ours and "floor" in row:
                        least = max(row["floor"]["bytes_ms"], row["floor"]["flop_ms"])
                        curves.setdefault("floor", []).append((shape[1], least))
            for colour, name in zip(COLOURS, ("ours", "fla", "floor", "flashinfer"), strict=False):
                if name in curves:
                    axes.plot(
                        *zip(*sorted(curves[name]), strict=True),
                        style,
                        marker="o",
                        markersize=3,
                        color=colour,
                        label=f"{name}, {mode.replace('_', ' ').replace('vjp', 'backward')}",
                    )
        heads = next(shape[2] for shape, _ in cases if shape[-1] == size)
        axes.set_title(f"{heads} heads of {size}, 32,768 tokens in all", fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("sequence length")
        axes.set_ylabel("ms")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(path)
    plt.close(figure)
    return path


def save_throughput_plot(path: Path, curves: dict[str, dict[int, float]]) -> Path:
    """Tokens a second against a row's length. `curves`: name -> length -> tokens a second."""
    figure, axes = _figure()
    for colour, (name, points) in zip(
        itertools.cycle(COLOURS), sorted(curves.items()), strict=False
    ):
        lengths = sorted(points)
        heights = [points[length] / 1e3 for length in lengths]
        axes.plot(lengths, heights, marker="o", markersize=4, color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sequence length, 32,768 tokens a step")
    axes.set_ylabel("thousand tokens a second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
    plt.close(figure)
    return path


def save_mixers_plot(path: Path, speeds: dict[str, float]) -> Path:
    """Tokens a second by mixer, as bars from the first on."""
    figure, axes = _figure()
    axes.barh(list(speeds), [speed / 1e6 for speed in speeds.values()], color=COLOURS[0])
    axes.invert_yaxis()
    axes.set_xlabel("million tokens a second through one layer, forward and backward")
    figure.savefig(path)
    plt.close(figure)
    return path


def save_recurrent_plot(
    path: Path, measured: dict[int, dict[str, float]], paper: dict[int, float]
) -> Path:
    """Speed-up of the chunkwise over recurrent forms by head size, with the paper's beside it."""
    figure, axes = _figure()
    bars = {"the paper": paper}
    for size, found in measured.items():
        for name, value in found.items():
            label = {"fla_recurrent": "over FLA's recurrent kernel", "scan": "over lax.scan"}[name]
            bars.setdefault(label, {})[size] = value
    sizes = sorted(measured)
    width = 0.8 / len(bars)
    for i, (colour, (name, values)) in enumerate(
        zip(itertools.cycle(COLOURS), bars.items(), strict=False)
    ):
        places = [n + (i - (len(bars) - 1) / 2) * width for n, s in enumerate(sizes) if s in values]
        heights = [values[s] for s in sizes if s in values]
        drawn = axes.bar(places, heights, width, color=colour, label=name)
        axes.bar_label(drawn, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(sizes)), [str(s) for s in sizes])
    axes.set_yscale("log")
    axes.set_xlabel("head size")
    axes.set_ylabel("recurrent time / chunkwise time")
    axes.set_title("Forward, one sequence of 16,384 tokens, width 2048", fontsize=9)
    axes.legend(frameon=False, fontsize=7)
    figure.savefig(path)
    plt.close(figure)
    return path


def save_suite_plot(
    path: Path, ours: dict[str, dict[str, float]], paper: dict[str, dict[str, float]], label: str
) -> Path:
    """Scores in percent against `label`, a colour a model: ours as lines, the paper's dashed."""
    figure, axes = _figure(7.0)
    names = [*ours, *(name for name in paper if name not in ours)]
    for colour, name in zip(itertools.cycle(plt.colormaps["tab10"].colors), names, strict=False):
        for side, style, whose in ((ours, "-", "ours"), (paper, "--", "paper")):
            points = sorted((int(x), y) for x, y in side.get(name, {}).items())
            if points:
                columns = zip(*points, strict=True)
                axes.plot(*columns, style, color=colour, marker="o", label=f"{name} ({whose})")
    axes.set_xscale("log", base=2)
    ticks = sorted({int(x) for side in (ours, paper) for points in side.values() for x in points})
    axes.set_xticks(ticks, [f"{x:,}" for x in ticks])
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(-2, 102)
    axes.legend(frameon=False, fontsize=6, ncols=2)
    figure.savefig(path)
    plt.close(figure)
    return path


def save_curves(
    path: Path,
    curves: dict[str, list[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    *,
    logarithmic: bool = False,
    line_at: float | None = None,
) -> Path:
    """A line for each name; both axes logarithmic or neither, a mark at `line_at`."""
    figure, axes = _figure(7.0)
    colours = itertools.cycle(plt.colormaps["tab10"].colors)
    for colour, (name, points) in zip(colours, curves.items(), strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, lw=1.2, label=name)
    if logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    if line_at is not None:
        axes.axvline(line_at, color="black", lw=0.8, ls=":")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, fontsize=6, ncols=2)
    figure.savefig(path)
    plt.close(figure)
    return path
