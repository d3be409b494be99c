# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""README's table of decoding, from generate.py's records."""

import json
from pathlib import Path
from typing import Any

from experiments.benchmarks.records import ROOT
from experiments.benchmarks.tables import DEVICE

FILE = ROOT / DEVICE / "generate.jsonl"
LAYOUTS = {
    "model": "as trained, layers scanned",
    "layers": "layers laid out",
    "joined": "laid out, projections joined",
    "decoder": "a product a kernel",
    "at_once": "all layers in one kernel",
}


def load(path: Path = FILE) -> list[dict[str, Any]]:
    """The latest row of each preset, number of rows and way, slowest first."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = sorted(map(json.loads, lines), key=lambda row: row["date"])
    latest = {(row["preset"], row["batch_size"], _way(row)): row for row in rows}
    return sorted(latest.values(), key=lambda r: (r["preset"], r["batch_size"], -r["ms_per_token"]))


def _way(row: dict[str, Any]) -> str:
    at_once = row.get("implementation") == "at_once"
    return LAYOUTS["at_once" if at_once else row["layout"]]


def generate_table(rows: list[dict[str, Any]]) -> str:
    """A line a preset, number of rows and way of decoding."""
    lines = [
        "| model | rows | how | ms a token | tokens/s "
        "| of the floor of weights and states | of the weights' | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        weights = row.get("of_weights_floor")
        lines.append(
            f"| {row['preset']} | {row['batch_size']} | {_way(row)} | {row['ms_per_token']:.2f} "
            f"| {row['tokens_per_second']:,.0f} | {row['of_floor']:.1%} "
            f"| {'–' if weights is None else f'{weights:.1%}'} | {row['commit'][:7]} |"
        )
    return "\n".join(lines)


def generate_section() -> str:
    """The table and where it is from."""
    rows = load()
    if not rows:
        return "Not measured yet: `python -m experiments.benchmarks.generate`."
    last = max(rows, key=lambda row: row["date"])
    variants = [f"With {_way(row)}: {row['variant']}." for row in rows if "variant" in row]
    return "\n\n".join(
        [
            generate_table(rows),
            " ".join(
                [
                    f"{last['device']}, driver {last['driver']}, jax {last['jax']}, "
                    f"{last['date'][:10]}; `python -m experiments.benchmarks.generate`, medians of "
                    "whole calls. The floor is the bytes over the rate of a copy in the same run.",
                    *variants,
                ]
            ),
        ]
    )
