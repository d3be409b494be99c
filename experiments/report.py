# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The documents' tables and pictures from the records: python -m experiments.report

Every number of a run in README and docs/reliability.md stands between two markers and is written by
this file from experiments/results and experiments/benchmarks/results; a test regenerates the text
and compares.
"""

import json
import re
from pathlib import Path

import matplotlib

from deltanet_jax.train.metrics import read_metrics
from experiments.benchmarks.fla_tables import fla_logits_section
from experiments.benchmarks.generate_tables import generate_section
from experiments.benchmarks.mixers_tables import mixers_speed_section, save_mixers_picture
from experiments.benchmarks.resume import table as resume_table
from experiments.benchmarks.save import table as save_table
from experiments.benchmarks.tables import kernels_section, save_pictures
from experiments.benchmarks.train_tables import save_training_picture, training_section
from experiments.command import run
from experiments.compare import table as compare_table
from experiments.drift import table as drift_table
from experiments.lm_small_report import lm_small_section, save_lm_small_pictures
from experiments.mixers_report import mixers_section
from experiments.plots import save_loss_plot
from experiments.suites_report import save_suite_pictures, suites_section

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"


def _read(*parts: str) -> dict:
    return json.loads(RESULTS.joinpath(*parts).read_text())


def _machine(machine: dict) -> str:
    changes = " with uncommitted changes" if machine["uncommitted_changes"] else ""
    return (
        f"`{machine['command']}` on {machine['cpu_count']} cores of {machine['cpu']}, Python "
        f"{machine['python']}, jax {machine['jax']}, commit {machine['commit'][:10]}{changes}, "
        f"{machine['date'][:10]}."
    )


def demo_section() -> str:
    """The demonstration: accuracy of both models, equality after restoring, error against scan."""
    summary = _read("demo", "summary.json")
    lines = [
        "| model | held-out accuracy | restored in a new process |",
        "|---|---|---|",
    ]
    for name, result in summary["results"].items():
        equal = all(result["restored"][k] == v for k, v in result["trained"].items())
        lines.append(
            f"| {name} | {result['trained']['accuracy']:.2%} "
            f"| {result['restored']['accuracy']:.2%}, {'equal bits' if equal else 'different'} |"
        )
    lines += [
        "",
        f"Trained layer, chunkwise against `lax.scan`: RMS ratio "
        f"{summary['rms_ratio_to_scan']:.1e}. The whole demonstration took "
        f"{summary['seconds']:.0f} s.",
        _machine(summary["machine"]),
        "",
        "![Held-out accuracy against training steps](experiments/results/demo/accuracy.png)",
    ]
    return "\n".join(lines)


def language_modeling_section() -> str:
    """Bits per byte on the standard library's sources and a sample."""
    folder = RESULTS / "language_modeling"
    rows = read_metrics(folder / "metrics.jsonl")
    machine = _read("language_modeling", "machine.json")
    evaluations = [r for r in rows if "eval/bits_per_byte" in r]
    lines = ["| steps | held-out bits per byte |", "|---|---|"]
    lines += [f"| {r['step']} | {r['eval/bits_per_byte']:.3f} |" for r in evaluations]
    sample = (folder / "sample.txt").read_text().rstrip("\n")
    lines += [
        "",
        _machine(machine),
        "",
        "![Bits per byte against steps](experiments/results/language_modeling/loss.png)",
        "",
        "The sampled continuation:",
        "",
        "```",
        sample,
        "```",
    ]
    return "\n".join(lines)


def compare_section() -> str:
    """The operator against its definition on a CPU."""
    record = _read("compare", "record.json")
    picture = "![Speed-up against length](experiments/results/compare/speedup.png)"
    return "\n".join([compare_table(record["rows"]), "", _machine(record["machine"]), "", picture])


def faults_section() -> str:
    """Faults caused on purpose, and what was lost, as of the last time that each was caused."""
    records = [json.loads(path.read_text()) for path in (RESULTS / "faults").rglob("record.json")]
    records.sort(key=lambda record: record["machine"]["date"], reverse=True)
    sections, known = [], set()
    for record in records:
        faults = [f for f in record["faults"] if f["caused"] and f["name"] not in known]
        known |= {fault["name"] for fault in faults}
        if faults:
            sections.append(_faults_table(faults) + "\n\n" + _machine(record["machine"]))
    return "\n\n".join(sections)


def _faults_table(faults: list[dict]) -> str:
    lines = ["| fault | caused | survived | lost |", "|---|---|---|---|"]
    largest: dict[str, float] = {}
    for fault in faults:
        survived = fault["caused"] - fault["lost"]
        lines.append(f"| {fault['name']} | {fault['caused']} | {survived} | {fault['lost']} |")
        for name, value in fault["figures"].items():
            largest[name] = max(value, largest.get(name, value))
    figures = "; ".join(f"{name.replace('_', ' ')} {x:.3g}" for name, x in largest.items())
    return "\n".join([*lines, *(["", f"{figures}."] if figures else [])])


def saves_section() -> str:
    """What hashing a checkpoint costs, on each machine that there is a record of."""
    records = [json.loads(path.read_text()) for path in sorted((RESULTS / "save").glob("*.json"))]
    return "\n\n".join(
        part
        for record in records
        for part in (save_table(record["rows"]), _machine(record["machine"]))
    )


def resume_section() -> str:
    """Whether a large run that is resumed is the unbroken one, and what --deterministic costs."""
    record = _read("resume", "record.json")
    machine = record["machine"]
    where = (
        f"`{machine['command']}`: {record['preset']}, {record['steps']} steps of {record['rows']} "
        f"x {record['columns']} tokens on one {machine['device']}, jax {machine['jax']}, commit "
        f"{machine['commit'][:10]}, {machine['date'][:10]}."
    )
    return "\n".join([resume_table(record), "", where])


def drift_section() -> str:
    """How far states of float32 are from float64 after many tokens."""
    record = _read("drift", "record.json")
    return "\n".join([drift_table(record["rows"]), "", _machine(record["machine"])])


SECTIONS = {
    "README.md": {
        "mixers": mixers_section,
        "mixers_speed": mixers_speed_section,
        "kernels": kernels_section,
        "training": training_section,
        "demo": demo_section,
        "language_modeling": language_modeling_section,
        "compare": compare_section,
        "suites": suites_section,
        "lm_small": lm_small_section,
        "generate": generate_section,
        "fla_logits": fla_logits_section,
    },
    "docs/reliability.md": {
        "faults": faults_section,
        "resume": resume_section,
        "saves": saves_section,
        "drift": drift_section,
    },
}


def fill_in(document: str, text: str) -> str:
    """`text` with everything between `<!-- NAME -->` and `<!-- /NAME -->` made anew."""
    for name, make in SECTIONS[document].items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{document}: wanted one pair of markers {begin} and {end}")
        text = re.sub(
            f"{begin}.*{end}",
            lambda _, b=begin, e=end, m=make: f"{b}\n{m()}\n{e}",
            text,
            flags=re.DOTALL,
        )
    return text


def main(argv: list[str]) -> None:
    del argv
    matplotlib.use("Agg")
    rows = read_metrics(RESULTS / "language_modeling" / "metrics.jsonl")
    save_loss_plot(RESULTS / "language_modeling" / "loss.png", rows)
    save_pictures()
    save_training_picture()
    save_mixers_picture()
    save_suite_pictures()
    save_lm_small_pictures()
    for document in SECTIONS:
        path = ROOT / document
        path.write_text(fill_in(document, path.read_text()))


if __name__ == "__main__":
    run(main)
