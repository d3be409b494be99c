# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""README's tables and the pictures of the benchmarks, from their records."""

from pathlib import Path

from experiments.benchmarks.operation import MODES
from experiments.benchmarks.records import OURS, ROOT, latest, read
from experiments.benchmarks.registry import OPERATIONS
from experiments.plots import save_recurrent_plot, save_times_plot

DEVICE = "nvidia-h200"  # whose records README shows
# Chunkwise over recurrent at model width 2048, 16,384 tokens, by head size: the paper's figure of
# speed-ups (arXiv:2406.06484), an H100 and its authors' Triton kernels.
PAPER_SPEEDUP = {64: 23.7, 128: 32.8, 256: 36.6}
MODE_NAMES = {"forward": "forward", "vjp": "backward", "forward_and_vjp": "forward and backward"}
PICTURES = Path("experiments/benchmarks/results") / DEVICE


def load(operation: str, folder: Path = ROOT / DEVICE) -> dict[tuple, dict[str, dict]]:
    """Rows to show: (shape's sizes, mode) -> implementation -> row."""
    return latest(read(folder / f"{operation}.jsonl"))


def ours(found: dict[str, dict]) -> dict:
    """Our row among those of one shape and mode."""
    return next(found[name] for name in OURS if name in found)


def _order(shape: tuple) -> tuple:
    """Head size 128 first, then by it; many short rows before few long ones."""
    batch, *_, size = shape
    return size != 128, size, -batch


def _beside(mine: dict, peer: dict | None) -> str:
    if peer is None:
        return f"{mine['median_ms']:.3f}"
    ratio = peer["median_ms"] / mine["median_ms"]
    return f"{mine['median_ms']:.3f} / {peer['median_ms']:.3f} = 1 / {ratio:.1f}"


def _fraction(row: dict) -> str:
    return f"{row['fraction_of_floor']:.0%}" if "fraction_of_floor" in row else "–"


def _errors(rows: list[dict | None]) -> str:
    return f"{max(max(r['rms_error'].values()) for r in rows if r):.1e}"


def _memory(row: dict | None) -> str:
    return f"{row['memory_bytes'] / 2**20:.0f}" if row and "memory_bytes" in row else "–"


def delta_rule_table(cases: dict[tuple, dict[str, dict]], peer: str = "fla") -> str:
    """Ours beside FLA's: a row for each shape [B, T, H, K, V]."""
    lines = [
        "| H, K, V | B, T | forward, ms: ours / FLA | of the floor "
        '| forward and backward, ms: ours / FLA | of the floor | the same with `residuals="save"` '
        "| largest RMS error: ours / FLA | memory, MiB: ours / saved / FLA | first result, s "
        "| commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in sorted({shape for shape, _ in cases}, key=_order):
        found = [cases.get((shape, mode), {}) for mode in ("forward", "forward_and_vjp")]
        mine, peers = [ours(f) if f else None for f in found], [f.get(peer) for f in found]
        cells = []
        for row, other in zip(mine, peers, strict=True):
            cells += [_beside(row, other), _fraction(row)] if row else ["not measured", "–"]
        saved = found[1].get("pallas_save")
        cells += [_beside(saved, peers[1]) if saved else "–"]
        sides = (mine, peers) if any(peers) else (mine,)
        cells += [" / ".join(_errors(side) for side in sides)]
        cells += [" / ".join(_memory(row) for row in (mine[1], saved, peers[1]))]
        first = mine[1]["first_call_s"] if mine[1] else None
        cells += ["–" if first is None else f"{first:.1f}"]
        cells += [", ".join(sorted({row["commit"][:7] for row in mine if row}))]
        batch, length, *sizes = shape
        lines.append(f"| {', '.join(map(str, sizes))} | {batch}, {length} | {' | '.join(cells)} |")
    return "\n".join(lines)


def triton_table(cases: dict[tuple, dict[str, dict]]) -> str:
    """The Triton kernels beside FLA's: a row for each shape [B, T, H, K, V]."""
    lines = [
        "| H, K, V | B, T | forward, ms: Triton / FLA | forward and backward "
        '| the same with `residuals="save"` | largest RMS error: Triton / FLA '
        "| memory, MiB: Triton / FLA | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for shape in sorted({shape for shape, _ in cases}, key=_order):
        forward, both = (cases.get((shape, m), {}) for m in ("forward", "forward_and_vjp"))
        if not {"triton", "fla"} <= forward.keys() & both.keys():
            continue
        mine, peer, saved = both["triton"], both["fla"], both.get("triton_save")
        cells = [
            _beside(forward["triton"], forward["fla"]),
            _beside(mine, peer),
            _beside(saved, peer) if saved else "–",
            " / ".join(_errors([forward[n], both[n]]) for n in ("triton", "fla")),
            " / ".join(_memory(row) for row in (mine, peer)),
            mine["commit"][:7],
        ]
        batch, length, *sizes = shape
        lines.append(f"| {', '.join(map(str, sizes))} | {batch}, {length} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speedups(cases: dict[tuple, dict[str, dict]], of_mode: str) -> dict[int, dict[str, float]]:
    """Head size -> recurrent implementation -> its time over ours, in a mode."""
    result = {}
    for (shape, mode), found in cases.items():
        if mode == of_mode:
            mine = ours(found)["median_ms"]
            others = {n: r["median_ms"] / mine for n, r in found.items() if n not in OURS}
            result[shape[-1]] = others
    return dict(sorted(result.items()))


def speedup_table(cases: dict[tuple, dict[str, dict]]) -> str:
    """Chunkwise over recurrent by head size, with the paper's figures."""
    lines = [
        "| head size | forward, over FLA's recurrent kernel | over `lax.scan` "
        "| forward and backward, over FLA's recurrent kernel | over `lax.scan` "
        "| the paper, chunkwise over recurrent | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    by_mode = [speedups(cases, mode) for mode in ("forward", "forward_and_vjp")]
    for size in sorted(set().union(*by_mode)):
        cells = [
            f"{found[size][name]:.1f}" if name in found.get(size, ()) else "–"
            for found in by_mode
            for name in ("fla_recurrent", "scan")
        ]
        commits = sorted(
            {ours(found)["commit"][:7] for (shape, _), found in cases.items() if shape[-1] == size}
        )
        cells += [str(PAPER_SPEEDUP.get(size, "–")), ", ".join(commits)]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def small_table(cases: dict[str, dict[tuple, dict[str, dict]]]) -> str:
    """Operators that only move bytes: a row for each and its mode, what None chooses beside XLA."""
    lines = [
        "| operator | shape | mode | implementation | ms: it / XLA | of the floor "
        "| largest RMS error | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in cases.items():
        for (_, mode), rows in sorted(found.items(), key=lambda item: MODES.index(item[0][1])):
            mine = ours(rows)
            peer = rows.get("xla") if mine["implementation"] != "xla" else None
            shape = ", ".join(f"{axis} {size}" for axis, size in mine["shape"].items())
            lines.append(
                f"| {name} | {shape} | {MODE_NAMES[mode]} | {mine['implementation']} "
                f"| {_beside(mine, peer)} | {_fraction(mine)} | {_errors([mine])} "
                f"| {mine['commit'][:7]} |"
            )
    return "\n".join(lines)


def provenance(cases: dict[tuple, dict[str, dict]]) -> str:
    """Where the rows come from and how they were timed, on one line each."""
    rows = [row for found in cases.values() for row in found.values()]
    first = max(rows, key=lambda row: row["date"])
    commits = sorted({row["commit"][:7] for row in rows})
    versions = [f"driver {first['driver']}", f"jax {first['jax']}"]
    versions += [f"{n.replace('_', '-')} {first[n]}" for n in ("fla_core",) if first.get(n)]
    methods: dict[str, set[str]] = {}
    for row in rows:
        side = "ours" if row["implementation"] in OURS else row["implementation"]
        methods.setdefault(row["method"], set()).add(side)
    timed = "; ".join(f"{', '.join(sorted(who))} by {how}" for how, who in sorted(methods.items()))
    return (
        f"{first['device']}, {', '.join(versions)}, commits {', '.join(commits)}, "
        f"{first['date'][:10]}; {first['dtype']}. Medians; timed {timed}."
    )


def kernels_section() -> str:
    """All benchmarks that have records, with their pictures."""
    cases = load("delta_rule")
    parts = [
        delta_rule_table(cases),
        provenance(cases),
        f"![Time against length]({PICTURES}/delta_rule.png)",
    ]
    recurrent = load("delta_rule_vs_recurrent")
    if recurrent:
        parts += [
            "One sequence of 16,384 tokens at model width 2048, the recurrent form's time over "
            "ours (a dash: its gradients were wrong by more than 1e-2, or it ran out of memory):",
            speedup_table(recurrent),
            provenance(recurrent),
            f"![Speed-up over the recurrent form]({PICTURES}/delta_rule_vs_recurrent.png)",
        ]
    triton = load("delta_rule_triton")
    if triton:
        parts += [
            "For GPUs before Hopper, in Triton, here on the same H200:",
            triton_table(triton),
            provenance(triton),
        ]
    small = {
        name: found
        for name in OPERATIONS
        if not name.startswith("delta_rule") and (found := load(name))
    }
    if small:
        everything = {key: rows for found in small.values() for key, rows in found.items()}
        parts += ["What surrounds it:", small_table(small), provenance(everything)]
    return "\n\n".join(parts)


def save_pictures() -> None:
    """Draws what `kernels_section` shows."""
    folder = ROOT / DEVICE
    save_times_plot(folder / "delta_rule.png", load("delta_rule"), OURS)
    recurrent = speedups(load("delta_rule_vs_recurrent"), "forward")
    if recurrent:
        path = folder / "delta_rule_vs_recurrent.png"
        save_recurrent_plot(path, recurrent, PAPER_SPEEDUP)
