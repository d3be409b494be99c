# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""README's table and picture of the mixers' speed, from mixers.py's records."""

from pathlib import Path

from experiments.benchmarks.records import ROOT, read
from experiments.benchmarks.tables import DEVICE, PICTURES
from experiments.plots import save_mixers_plot


def load(folder: Path = ROOT / DEVICE) -> list[dict]:
    """The latest row of each mixer at the sizes of the latest row, fastest first."""
    rows = sorted(read(folder / "mixers.jsonl"), key=lambda row: row["date"])
    latest = {row["implementation"]: row for row in rows if row["shape"] == rows[-1]["shape"]}
    return sorted(latest.values(), key=lambda row: row["median_ms"])


def mixers_table(rows: list[dict]) -> str:
    """A line a mixer."""
    lines = [
        "| mixer | tokens/s | forward and backward, ms | TFLOP/s | memory, GiB "
        "| RMS error of the output | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        operations = row["tokens_per_second"] * row["flops_per_token"] / 1e12
        lines.append(
            f"| `{row['implementation']}` | {row['tokens_per_second']:,.0f} "
            f"| {row['median_ms']:.2f} | {operations:.0f} | {row['memory_bytes'] / 2**30:.1f} "
            f"| {row['rms_error']['y']:.1e} | {row['commit'][:7]} |"
        )
    return "\n".join(lines)


def mixers_speed_section() -> str:
    """The table, where it is from and the picture."""
    rows = load()
    if not rows:
        return "Not measured yet: `python -m experiments.benchmarks.mixers`."
    first, sizes = rows[0], rows[0]["shape"]
    return "\n\n".join(
        [
            "One layer of each mixer with its default options, forward and backward, "
            f"{sizes['B']} x {sizes['T']} tokens of width {sizes['D']} in bfloat16:",
            mixers_table(rows),
            f"{first['device']}, driver {first['driver']}, jax {first['jax']}, "
            f"{first['date'][:10]}. Medians; {first['method']}.",
            f"![Tokens a second of every mixer]({PICTURES}/mixers.png)",
        ]
    )


def save_mixers_picture() -> None:
    """Draws what `mixers_speed_section` shows."""
    if rows := load():
        speeds = {row["implementation"]: row["tokens_per_second"] for row in rows}
        save_mixers_plot(ROOT / DEVICE / "mixers.png", speeds)
