# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""README's table and picture of whole-model training, from train.py's records."""

import json
import math

from experiments.benchmarks.records import ROOT
from experiments.benchmarks.tables import DEVICE, PICTURES
from experiments.plots import save_throughput_plot

# What two rows share that one may be divided by the other.
SAME_WORK = ("rows", "columns", "param_dtype", "commit", "driver")


def load(folder=ROOT / DEVICE) -> list[dict]:
    """Rows, the latest of each case; of a case all but the commit and the count of steps counts.

    Rows that have FLA's beside them come before later ones that have not.
    """
    path = folder / "train.jsonl"
    if not path.exists():
        return []
    names = ("preset", "implementation", "rows", "columns", "param_dtype", "remat", "scan_unroll")
    every = [json.loads(line) for line in path.read_text().splitlines()]
    rows = {}
    for row in every:
        key = (*(row[name] for name in names), row["residuals"], devices(row))
        if key not in rows or fla_of(row, every) or not fla_of(rows[key], every):
            rows[key] = row
    return list(rows.values())


def devices(row: dict) -> str:
    """How many, and along which axes of the mesh they lie."""
    axes = {axis: size for axis, size in row["mesh"].items() if size > 1}
    return ", ".join(f"{size} ({axis})" for axis, size in axes.items()) or "1"


def fla_of(row: dict, rows: list[dict]) -> dict | None:
    """FLA's row of the same work on one device, if `row` is DeltaNet's on one device."""
    if row["implementation"] == "fla" or row["preset"] != "deltanet_1b3" or devices(row) != "1":
        return None
    for other in rows:
        same = all(row[name] == other[name] for name in SAME_WORK)
        if other["implementation"] == "fla" and same:
            return other
    return None


def _name(row: dict) -> str:
    return f"{row['preset']}, FLA" if row["implementation"] == "fla" else row["preset"]


def _options(row: dict) -> str:
    if row["implementation"] == "fla":
        return "–"
    return f"{row['remat']}, {row['residuals']}, {row['scan_unroll']}"


def train_table(rows: list[dict]) -> str:
    """A line a case."""
    lines = [
        "| model | batch | weights | remat, residuals, layers laid out | GPUs | tokens/s "
        "| over FLA | step, ms (10th to 90th percentile apart) | MFU | peak memory, GiB "
        "| to the first step's end, s | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(
        rows, key=lambda r: (devices(r), r["columns"], r["preset"], r["param_dtype"])
    ):
        fla = fla_of(row, rows)
        ratio = "–" if fla is None else f"{row['tokens_per_second'] / fla['tokens_per_second']:.2f}"
        memory = row["peak_memory_bytes"]
        cells = [
            _name(row),
            f"{row['rows']} x {row['columns']}",
            row["param_dtype"],
            _options(row),
            devices(row),
            f"{row['tokens_per_second']:,.0f}",
            ratio,
            f"{row['median_step_s'] * 1e3:.0f} ({row['spread_s'] * 1e3:.0f})",
            "–" if row["mfu"] is None else f"{row['mfu']:.1%}",
            "–" if memory is None else f"{memory / 2**30:.1f}",
            f"{row['first_step_s']:.0f}",
            row["commit"][:7],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def curves(rows: list[dict]) -> dict[str, dict[int, float]]:
    """Name -> tokens of a row -> tokens a second; one device, bfloat16 weights, 32,768 tokens a
    step, the fastest options that were measured."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        tokens = row["rows"] * row["columns"]
        if math.prod(row["mesh"].values()) > 1 or tokens != 32768:
            continue
        if row["param_dtype"] == "bfloat16":
            curve = found.setdefault(_name(row), {})
            curve[row["columns"]] = max(row["tokens_per_second"], curve.get(row["columns"], 0.0))
    return found


def training_section() -> str:
    """The table, where it is from and the picture."""
    rows = load()
    if not rows:
        return ""
    last = max(rows, key=lambda row: row["date"])
    steps = sorted({row["steps"] for row in rows})
    of = " to ".join(map(str, dict.fromkeys((steps[0], steps[-1]))))
    return "\n\n".join(
        [
            train_table(rows),
            f"{last['device']}, driver {last['driver']}, jax {last['jax']}, "
            f"{last['date'][:10]}; medians of {of} steps.",
            f"![Tokens a second against length]({PICTURES}/train.png)",
        ]
    )


def save_training_picture() -> None:
    """Draws what `training_section` shows."""
    if rows := load():
        save_throughput_plot(ROOT / DEVICE / "train.png", curves(rows))
