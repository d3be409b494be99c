# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The small main table and its pictures, from the records that experiments.lm_small makes.

A record is a folder experiments/results/lm_small/MODEL with record.json, config.json and
metrics.jsonl, and, where LAMBADA was evaluated, the offline.json of its flag --tasks.
Nothing is written while there is no record.
"""

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deltanet_jax.train.metrics import read_metrics
from experiments.lm_small_presets import ABLATION, MODELS, Shape, with_seed
from experiments.plots import save_curves

RESULTS = Path(__file__).resolve().parent / "results" / "lm_small"
TRIED = RESULTS.parent / "tried"
IN_README = "experiments/results/lm_small"
LOSS, POSITIONS = "loss.png", "positions.png"


class Record(NamedTuple):
    """A finished model.

    Attributes:
        name: of its preset and folder.
        title: of its row.
        figures: record.json.
        lambada: LAMBADA's figures, or None.
        others: validation perplexities with other seeds.
    """

    name: str
    title: str
    figures: dict[str, Any]
    lambada: dict[str, float] | None
    others: tuple[float, ...] = ()

    @property
    def perplexities(self) -> list[float]:
        """On the held-out text, ascending, of all seeds."""
        return sorted((self.figures["validation"]["perplexity"], *self.others))


def read_records(results: Path, shapes: dict[str, Shape]) -> list[Record]:
    """The records of these models, in their order; models without one are left out."""
    records = []
    for name, shape in shapes.items():
        folder = results / name
        if (folder / "record.json").exists():
            path = folder / "offline.json"
            tasks = json.loads(path.read_text())["tasks"] if path.exists() else {}
            figures = json.loads((folder / "record.json").read_text())
            others = tuple(
                json.loads(path.read_text())["validation"]["perplexity"]
                for path in sorted(results.glob(f"{with_seed(name, '*')}/record.json"))
            )
            records.append(Record(name, shape.title, figures, tasks.get("lambada"), others))
    return records


def _perplexity(record: Record) -> str:
    found = record.perplexities
    mean = f"{statistics.mean(found):.2f}"
    if len(found) == 1:
        return mean
    return f"{mean} ({found[0]:.2f} to {found[-1]:.2f}, {len(found)} seeds)"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _speed(figures: dict[str, Any]) -> str:
    count = figures["machine"]["device_count"]
    speed = _number(figures.get("tokens_per_second"), ",.0f")
    return speed if count == 1 else f"{speed} ({count} GPUs)"


def _row(record: Record, paper: dict[str, float]) -> str:
    figures, lambada = record.figures, record.lambada or {}
    wikitext = figures.get("wikitext", {}).get("word_perplexity")
    accuracy = lambada.get("acc")
    cells = [
        record.title,
        f"{figures['parameters'] / 1e6:.1f}",
        f"{figures['tokens'] / 1e6:.0f}",
        _perplexity(record),
        _number(wikitext, ".2f"),
        _number(paper.get(record.name), ".2f"),
        f"{_number(lambada.get('perplexity'), '.1f')}, "
        + _number(None if accuracy is None else 100 * accuracy, ".1f"),
        _speed(figures),
        f"[record]({IN_README}/{record.name}/record.json)",
    ]
    return "| " + " | ".join(cells) + " |"


def _table(records: Sequence[Record], paper: dict[str, float]) -> list[str]:
    columns = (
        "model",
        "parameters, M",
        "tokens, M",
        "validation perplexity",
        "WikiText word perplexity",
        "the paper's, 340M",
        "LAMBADA perplexity, accuracy in %",
        "tokens/s",
        "",
    )
    head = "| " + " | ".join(columns) + " |"
    return [head, "|---" * len(columns) + "|", *(_row(record, paper) for record in records)]


def _machines(records: Iterable[Record]) -> str:
    machines = [record.figures["machine"] for record in records]

    def of(name: str) -> str:
        return ", ".join(sorted({str(machine[name]) for machine in machines}))

    commits = ", ".join(sorted({(m["commit"] or "unknown")[:10] for m in machines}))
    dates = ", ".join(sorted({m["date"][:10] for m in machines}))
    # Commands that differ in the model alone are one.
    named = {re.sub("--models=[^ ]*", "--models=MODEL", m["command"]) for m in machines}
    commands = "; ".join(f"`{command}`" for command in sorted(named))
    return f"{of('device')}, jax {of('jax')}, commit {commits}, {dates}; made by {commands}."


def _missing(records: Sequence[Record]) -> list[str]:
    missing = [MODELS[name].title for name in MODELS if name not in {r.name for r in records}]
    return [f"Not run with this recipe yet: {', '.join(missing)}.", ""] if missing else []


def _recipe(folder: Path) -> str:
    train, task = (json.loads((folder / "config.json").read_text())[k] for k in ("train", "task"))
    optimizer = train["optimizer"]
    return (
        f"{train['batch_size'] * task['seq_len']:,} tokens a batch, rate "
        f"{optimizer['learning_rate']:g}, weight decay {optimizer['weight_decay']:g}"
    )


def _recipes(results: Path, tried: Path) -> list[str]:
    """Validation perplexity by recipe: the table's, and those that were tried before."""
    folders = [results, *sorted(tried.glob("lm_small-*"))]
    found = {f: {r.name: r for r in read_records(f, MODELS)} for f in folders}
    named = [(_recipe(f / next(iter(records))), records) for f, records in found.items() if records]
    if len(named) < 2:
        return []
    lines = ["| model | " + " | ".join(recipe for recipe, _ in named) + " |"]
    lines.append("|" + "---|" * (len(named) + 1))
    for name, shape in MODELS.items():
        cells = [_perplexity(rs[name]) if name in rs else "–" for _, rs in named]
        if set(cells) != {"–"}:
            lines.append(f"| {shape.title} | " + " | ".join(cells) + " |")
    return ["By recipe, validation perplexity (the first column is the table's):", "", *lines, ""]


def _on_the_way(records: Sequence[Record], results: Path) -> list[str]:
    """Validation perplexity after every quarter of the steps, one seed."""
    lines = []
    for record in records:
        rows = read_metrics(results / record.name / "metrics.jsonl")
        found = {row["step"]: row["eval/loss"] for row in rows if "eval/loss" in row}
        at = [min(found, key=lambda step: abs(step - i * max(found) / 4)) for i in (1, 2, 3, 4)]
        cells = [f"{math.exp(min(found[step], 700)):.2f}" for step in at]
        if not lines:
            a_step = record.figures["tokens"] / record.figures["steps"] / 1e6
            tokens = [f"{step * a_step:.0f}M tokens" for step in at]
            lines = ["| model | " + " | ".join(tokens) + " |", "|---|---|---|---|---|"]
        lines.append(f"| {record.title} | " + " | ".join(cells) + " |")
    return ["Validation perplexity on the way, a quarter of the steps apart:", "", *lines, ""]


def lm_small_section(results: Path = RESULTS, tried: Path = TRIED) -> str:
    """Tables, notes and pictures; nothing without records."""
    paper = json.loads((RESULTS / "paper.json").read_text())
    table, ablation = read_records(results, MODELS), read_records(results, ABLATION)
    parts: list[str] = []
    if table:
        parts += [
            "The paper's main table in small: equal sizes, tokens and recipe, one seed where no "
            "other number is given (experiments/lm_small_presets.py):",
            "",
            *_table(table, paper["wikitext"]),
            "",
            *_missing(table),
            *_on_the_way(table, results),
            *_recipes(results, tried),
            f"![Loss against tokens]({IN_README}/{LOSS})",
            "",
            f"![Perplexity by position]({IN_README}/{POSITIONS})",
            "",
        ]
    if ablation:
        parts += [
            "Its ablation, norm and activation of queries and keys, on half of the tokens:",
            "",
            *_table(ablation, paper["wikitext"]),
            "",
        ]
    if parts:
        parts += [_machines([*table, *ablation]), f"The paper's numbers: {paper['source']}."]
    return "\n".join(parts)


def save_lm_small_pictures(results: Path = RESULTS) -> None:
    """Training loss against tokens, and perplexity by position; none without records."""
    records = read_records(results, MODELS)
    if not records:
        return
    losses, positions = {}, {}
    for record in records:
        rows = read_metrics(results / record.name / "metrics.jsonl")
        a_step = record.figures["tokens"] / record.figures["steps"] / 1e6
        losses[record.title] = [
            (row["step"] * a_step, row["eval/loss"]) for row in rows if "eval/loss" in row
        ]
        found = record.figures["positions"]
        positions[record.title] = [
            ((i + 0.5) * found["bucket"], math.exp(min(loss, 700)))
            for i, loss in enumerate(found["loss"])
        ]
    save_curves(results / LOSS, losses, "million tokens", "validation loss, nats a token")
    trained = records[0].figures["positions"]["training_seq_len"]
    save_curves(
        results / POSITIONS,
        positions,
        f"position in the text (trained on {trained:,})",
        "perplexity",
        logarithmic=True,
        line_at=trained,
    )
