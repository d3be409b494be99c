# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and pictures of the synthetic suites, from the records of sweeps.

A record is a sweep's directory below experiments/results/suites, without its checkpoints:
config.json, machine.json, runs.jsonl. Nothing is written of a suite that has no record.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from deltanet_jax.model import ModelConfig
from deltanet_jax.train.sweep import Goal, Member, RunTable
from experiments.plots import save_suite_plot
from experiments.run_config import RunConfig
from experiments.suite_presets import EPOCHS, protocol_steps
from experiments.sweep import best, final_rows
from experiments.tasks.base import TaskConfig
from experiments.tasks.mad.task import GRID
from experiments.tasks.synthetic import LENGTHS

RESULTS = Path(__file__).resolve().parent / "results" / "suites"
MIXER_NAMES = {
    "delta_net": "DeltaNet",
    "gated_delta_net": "Gated DeltaNet",
    "delta_product": "DeltaProduct",
    "attention": "Transformer++",
    "gla": "GLA",
    "linear_attention": "linear attention",
    "retnet": "RetNet",
    "mamba": "Mamba",
    "rwkv4": "RWKV-4",
    "hyena": "Hyena",
}

PAPERS_DIFFICULTY = (512, 64)  # tokens, pairs
LEARNT = 0.9  # of MQAR: far above what is reached without recall
OURS = "Ours / the paper's, in %, a dash where nothing was run or published"


class Record(NamedTuple):
    """What came out of a sweep.

    Attributes:
        config: of its runs.
        model: short name of the model.
        best: what `experiments.sweep.best` says.
        members: how many runs.
        trained: steps of the runs, also beyond the one that counts.
        figures: of the best runs at the step that counts, each a mean over seeds; None if one was
            not finite.
        seconds: wall clock of all runs, with data, compilation and evaluation; 0 if not recorded.
        device: what it was run on.
        commit: of the code.
    """

    config: RunConfig
    model: str
    best: dict[str, Any]
    members: int
    trained: int
    figures: dict[str, float | None]
    seconds: float
    device: str
    commit: str


def model_name(model: ModelConfig) -> str:
    """Its mixers, with what tells the suites' models apart: "DeltaNet, conv, beta in (0, 2)"."""
    names = []
    for mixer in model.layer_pattern:
        name = MIXER_NAMES.get(mixer.kind, mixer.kind)
        if steps := getattr(mixer, "num_householder", 0):
            name += f" of {steps} steps"
        if mixer.kind == "hyena":  # always with its convolutions
            name = name if mixer.num_heads is None else f"MH-{name}"
        elif getattr(mixer, "conv_size", 0):
            name += ", conv"
        name += ", beta in (0, 2)" if getattr(mixer, "allow_neg_eigval", False) else ""
        names += [] if name in names else [name]
    return " + ".join(names)


class _Sweep(NamedTuple):
    """A sweep's folder, read."""

    header: dict
    config: RunConfig
    members: list[Member]
    table: RunTable
    finished: bool


def _read_sweep(path: Path) -> _Sweep:
    """`path`: of its runs.jsonl."""
    header = json.loads((path.parent / "config.json").read_text())
    config = RunConfig.from_dict(header["run"])
    members = [Member(**member) for member in header["members"]]
    stop_score = header.get("stop_score")
    goal = None if stop_score is None else Goal(config.task.selection_name, stop_score)
    table = RunTable(path)
    finished = table.finished(members, config.train.num_steps, goal)
    return _Sweep(header, config, members, table, finished)


def unfinished_note(results: Path) -> list[str]:
    """A line on the sweeps below `results` that were cut off; none if there are none."""
    cut = []
    for path in sorted(results.glob("**/runs.jsonl")):
        sweep = _read_sweep(path)
        if not sweep.finished:
            done = max((row["step"] for row in sweep.table.rows()), default=0)
            cut.append(f"{path.parent.name} at step {done:,} of {sweep.config.train.num_steps:,}")
    return [f"Cut off, and in no table: {'; '.join(cut)}."] if cut else []


def read_records(results: Path) -> list[Record]:
    """All finished sweeps below `results`, by folder name; those cut off are left out."""
    records = []
    for path in sorted(results.glob("**/runs.jsonl")):
        header, config, members, table, finished = _read_sweep(path)
        if not finished:
            continue
        machine = json.loads((path.parent / "machine.json").read_text())
        rows = table.rows()
        chosen = best(rows, config)
        mine = [
            r
            for r in final_rows(rows, config)
            if all(r[k] == chosen[k] for k in ("learning_rate", "weight_decay"))
        ]
        names = mine[0].keys() - {*Member._fields, "step", "seconds"}
        figures = {name: _mean([r[name] for r in mine]) for name in names}
        at_once = header.get("members_at_once") or len(members)
        groups = (members[i : i + at_once] for i in range(0, len(members), at_once))
        records.append(
            Record(
                config,
                model_name(config.model),
                chosen,
                len(members),
                max(row["step"] for row in rows),
                figures,
                sum(table.seconds(group) for group in groups),
                machine.get("device", "an unknown device"),
                (machine["commit"] or "unknown")[:10],
            )
        )
    return records


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(values) / len(values)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return _percent(None if value is None else 100 * value)


def _ours(
    records: Sequence[Record], column: Callable[[Record], Any]
) -> dict[str, dict[str, float]]:
    """Model -> column -> mean score in percent, of the record with most seeds, then the best."""
    found: dict[str, dict[str, tuple[int, float]]] = {}
    for record in records:
        if (score := record.best["mean_score"]) is not None:
            columns, name = found.setdefault(record.model, {}), str(column(record))
            mine = len(record.best["scores"]), 100 * score
            columns[name] = max(columns.get(name, mine), mine)
    return {
        model: {name: score for name, (_, score) in columns.items()}
        for model, columns in found.items()
    }


def _table(
    head: str,
    columns: Sequence[str],
    ours: dict[str, dict[str, float]],
    paper: dict[str, dict[str, float]],
    remarks: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> list[str]:
    """A row a model, ours / the paper's; the paper's models first. What is in brackets after a
    model's name says how ours differs: the paper's numbers beside it are those of the model.
    `remarks` follow our numbers."""
    lines = ["| " + " | ".join((head, *columns)) + " |", "|---" * (1 + len(columns)) + "|"]
    bases = list(dict.fromkeys((*paper, *map(_base, ours))))
    for model in sorted({*ours, *paper}, key=lambda name: (bases.index(_base(name)), name)):
        mine, published = ours.get(model, {}), paper.get(_base(model), {})
        cells = [
            f"{_percent(mine.get(c))}{remarks.get(model, {}).get(c, '')} / "
            f"{_percent(published.get(c))}"
            for c in columns
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines


def _base(model: str) -> str:
    """A model's name without how ours departs from it."""
    return model.partition(" (with ")[0]


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,g}" if low == high else f"{low:,g} to {high:,g}"


def _spent(records: Sequence[Record]) -> str:
    """Steps, of the protocol's if there is one; how many learning rates and weight decays the best
    was taken of, and seeds the mean, of some records."""
    steps = _span([r.trained for r in records])
    if records[0].config.task.kind in EPOCHS:
        full = [protocol_steps(r.config.task, r.config.train.batch_size) for r in records]
        steps += f" of the protocol's {_span(full)}"
    # Among seeds nothing is chosen: they are averaged.
    rates = _span([r.members // len(r.best["scores"]) for r in records])
    seeds = _span([len(r.best["scores"]) for r in records])
    chosen = "one rate and decay" if rates == "1" else f"best of {rates} rates and decays"
    return f"{steps} steps, {chosen}, {seeds} seed{'' if seeds == '1' else 's'}"


def _budget(records: Sequence[Record], what: str = OURS) -> str:
    """What the numbers are and what was spent, by model if not on all the same."""
    tasks = [r.config.task for r in records]
    train, held_out = (
        _span([getattr(task, f"num_{kind}_examples") for task in tasks])
        for kind in ("train", "eval")
    )
    by_model: dict[str, list[Record]] = {}
    for r in records:
        by_model.setdefault(r.model, []).append(r)
    models: dict[str, list[str]] = {}
    for model, mine in by_model.items():
        models.setdefault(_spent(mine), []).append(model)
    said = "; ".join(
        spent if len(models) == 1 else f"{', '.join(names)}: {spent}"
        for spent, names in models.items()
    )
    half = ", half of them to choose the evaluation" if tasks[0].early_stopping else ""
    dtypes = ", ".join(sorted({r.config.model.compute_dtype for r in records}))
    seconds = [r.seconds for r in records if r.seconds]
    clock = f", {_span([round(s) for s in seconds])} s for all of a sweep's runs" if seconds else ""
    commits, devices = (
        ", ".join(sorted({getattr(r, name) for r in records})) for name in ("commit", "device")
    )
    return (
        f"{what}; n: {train} training and {held_out} held-out examples{half}; "
        f"{said}{clock}; in {dtypes}, {devices}, commit {commits}."
    )


def mqar_section(records: Sequence[Record], paper: dict) -> list[str]:
    """MQAR by width, a table a difficulty; the paper has the hardest."""
    lines = []
    for seq_len, pairs in sorted({_difficulty(r) for r in records}):
        mine = [_with_departures(r) for r in records if _difficulty(r) == (seq_len, pairs)]
        published = paper if (seq_len, pairs) == PAPERS_DIFFICULTY else {}
        ours = _ours(mine, lambda r: r.config.model.d_model)
        lines += [
            f"MQAR, {seq_len} tokens, {pairs} pairs, accuracy by width:",
            "",
            *_table("model", ("64", "128", "256", "512"), ours, published),
            "",
            _budget(mine),
            "",
            *_mqar_notes(mine),
        ]
        if published:
            lines += ["![MQAR](experiments/results/suites/mqar.png)", ""]
    return lines[:-1]


def _with_departures(record: Record) -> Record:
    """Names the model after what is not as in the presets of MQAR."""
    model = record.config.model
    activations = [getattr(mixer, "qk_activation", "silu") for mixer in model.layer_pattern]
    told = {
        f"{model.num_layers} layers": model.num_layers != 2,
        "LayerNorm": model.norm == "layer",
        "x + norm(x) after mixers": model.identity_mlp,
        f"initial weights of {model.init_std:g}": model.init_std != 0.02,
        "no SiLU": "identity" in activations,
    }
    names = ", ".join(name for name, so in told.items() if so)
    return record._replace(model=f"{record.model} (with {names})") if names else record


def _mqar_notes(records: Sequence[Record]) -> list[str]:
    """Schedules that are not the protocol's; scores by seed; the wall clock of sweeps of one run
    that learnt the task, with making data, compiling and evaluating."""
    warm: dict[int, list[str]] = {}
    lines = []
    for r in records:
        name, score = f"{r.model} at {r.config.model.d_model}", r.best["mean_score"]
        if steps := r.config.train.optimizer.warmup_steps:
            warm.setdefault(steps, []).append(name)
        if len(r.best["scores"]) > 1:
            seeds = ", ".join(map(_share, r.best["scores"].values()))
            lines.append(f"{name}, {r.trained:,} steps, by seed: {seeds}.")
        if r.members == 1 and r.seconds and score is not None and score > LEARNT:
            lines.append(
                f"A sweep of one run, {name}: {r.seconds:.0f} s on one {r.device} to "
                f"{_share(score)} %, all counted."
            )
    if warm:
        said = "; ".join(
            f"{steps:,} ({', '.join(dict.fromkeys(names))})"
            for steps, names in sorted(warm.items())
        )
        lines.insert(0, f"Steps of warm-up, which the protocol has none of: {said}.")
    return [*lines, ""] if lines else []


def _difficulty(record: Record) -> tuple[int, int]:
    return record.config.task.seq_len, record.config.task.num_kv_pairs


def mad_section(records: Sequence[Record], paper: dict) -> list[str]:
    """MAD: a problem's score is the mean over the settings recorded; a mean of the problems stands
    only where all settings are."""
    found: dict[str, dict[str, dict[TaskConfig, float]]] = {}
    for r in records:
        if r.best["mean_score"] is not None:
            scores = found.setdefault(r.model, {}).setdefault(r.config.task.problem, {})
            score = 100 * r.best["mean_score"]
            scores[r.config.task] = max(scores.get(r.config.task, score), score)
    ours = {
        model: {problem: sum(s.values()) / len(s) for problem, s in problems.items()}
        for model, problems in found.items()
    }
    whole = {problem: 1 + len(changes) for problem, (_, changes) in GRID.items()}
    counts = {
        model: {p: f" ({len(s)} of {whole[p]})" for p, s in problems.items() if len(s) < whole[p]}
        for model, problems in found.items()
    }
    for model, problems in found.items():
        if problems.keys() == whole.keys() and not counts[model]:
            ours[model]["mean"] = sum(ours[model].values()) / len(whole)
    paper = {
        model: scores | {"mean": sum(scores.values()) / len(whole)}
        for model, scores in paper.items()
    }
    return [
        "MAD, macro accuracy, mean over settings: of how many is said where not all are recorded "
        "(one is the baseline); the paper's are over all:",
        "",
        *_table("model", (*sorted(GRID), "mean"), ours, paper, counts),
        "",
        _budget(records),
    ]


def regbench_section(records: Sequence[Record], paper: dict) -> list[str]:
    """RegBench by number of training automata."""
    ours = _ours(records, lambda r: r.config.task.num_train_examples)
    return [
        "RegBench, legal next letters by number of training examples, each run at the evaluation "
        "that validates best:",
        "",
        *_table("model", ("2500", "5000", "10000", "20000"), ours, paper),
        "",
        _budget(records),
        "",
        "![RegBench](experiments/results/suites/regbench.png)",
    ]


def lengths_section(records: Sequence[Record], what: str) -> list[str]:
    """Accuracy at and beyond the training length; nothing published stands beside it."""
    figures = [f"accuracy_{factor}x" for factor in LENGTHS]
    columns = [*(f"{factor} T" for factor in LENGTHS), f"{LENGTHS[-1]} T by seed"]
    lines = [
        f"{what}, accuracy at multiples of the training length T, in %:",
        "",
        "| task | model | " + " | ".join(columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for r in records:
        task = r.config.task
        problem, width = getattr(task, "problem", task.kind), r.config.model.d_model
        name = f"{problem}, T = {task.seq_len}, width {width}"
        found = [r.figures[figure] for figure in figures]
        seeds = ", ".join(map(_share, r.best["scores"].values()))
        lines.append(f"| {name} | {r.model} | {' | '.join(map(_share, found))} | {seeds} |")
    return [*lines, "", _budget(records, "Means over seeds")]


def suites_section(results: Path = RESULTS) -> str:
    """All tables for which there are records."""
    records, paper = read_records(results), json.loads((RESULTS / "paper.json").read_text())
    of = {kind: [r for r in records if r.config.task.kind == kind] for kind in SECTIONS}
    parts = [make(of[kind], paper) for kind, make in SECTIONS.items() if of[kind]]
    if cut := unfinished_note(results):
        parts.append(cut)
    if any(parts):
        parts.append([f"The paper's numbers: {paper['source']}"])
    return "\n\n".join("\n".join(part) for part in parts if part)


SECTIONS: dict[str, Callable[[Sequence[Record], dict], list[str]]] = {
    "mqar": lambda records, paper: mqar_section(records, paper["mqar"]),
    "mad": lambda records, paper: mad_section(records, paper["mad"]),
    "regbench": lambda records, paper: regbench_section(records, paper["regbench"]),
    "state_tracking": lambda records, paper: lengths_section(records, "State tracking"),
    "needle": lambda records, paper: lengths_section(records, "Needles in a haystack"),
}


def save_suite_pictures(results: Path = RESULTS) -> None:
    """mqar.png and regbench.png in `results`, each if there are records."""
    records, paper = read_records(results), json.loads((RESULTS / "paper.json").read_text())
    for kind, column, label in (
        ("mqar", lambda r: r.config.model.d_model, "width"),
        ("regbench", lambda r: r.config.task.num_train_examples, "training examples"),
    ):
        mine = [r for r in records if r.config.task.kind == kind]
        if kind == "mqar":
            mine = [_with_departures(r) for r in mine if _difficulty(r) == PAPERS_DIFFICULTY]
        if mine:
            save_suite_plot(results / f"{kind}.png", _ours(mine, column), paper[kind], label)
