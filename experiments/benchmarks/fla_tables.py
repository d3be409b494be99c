# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""README's table of converted models beside FLA's own, from fla_logits.py's records."""

import json
from pathlib import Path
from typing import Any

from experiments.benchmarks.records import ROOT
from experiments.benchmarks.tables import DEVICE

FILE = ROOT / DEVICE / "fla_logits.jsonl"
SOURCES = {"run": "trained here", "folder": "given", "random": "random weights, made by FLA"}


def load(path: Path = FILE) -> list[dict[str, Any]]:
    """The latest row of each model, trained ones first; none without a record."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = sorted(map(json.loads, lines), key=lambda row: row["date"])
    latest = {(row["source"], row["kind"]): row for row in rows}
    return sorted(latest.values(), key=lambda row: [*SOURCES].index(row["source"]))


def fla_table(rows: list[dict[str, Any]]) -> str:
    """A line a model."""
    lines = [
        "| model | layers | tokens | bfloat16: ours to FLA's | ours to float32 | FLA's to float32 "
        "| float32: ours to FLA's | tensors changed on the way there and back | commit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        tokens = f"{' x '.join(f'{n:,}' for n in row['shape'])}, {row['tokens']}"
        errors = ("ours_to_fla", "ours_to_float32", "fla_to_float32", "float32_to_fla")
        lines.append(
            f"| {row['kind']}, {SOURCES[row['source']]} | {row['layers']} | {tokens} | "
            + " | ".join(f"{row[name]:.1e}" for name in errors)
            + f" | {len(row['changed_tensors'])} | {(row['commit'] or 'unknown')[:7]} |"
        )
    return "\n".join(lines)


def fla_logits_section() -> str:
    """The table and where it is from."""
    rows = load()
    if not rows:
        return "Not measured yet: `python -m experiments.benchmarks.fla_logits`."
    last = rows[-1]
    return "\n\n".join(
        [
            "Logits of converted models beside FLA's own on a GPU, RMS ratios:",
            fla_table(rows),
            f"{last['device']}, jax {last['jax']}, FLA {last['fla_core']}, torch {last['torch']}, "
            f"{last['date'][:10]}; `python -m experiments.benchmarks.fla_logits`.",
        ]
    )
