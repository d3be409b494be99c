# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The operator against its definition: python -m experiments.compare

For each length and head size: RMS error of the outputs and all gradients of "xla" against
`lax.scan` in float64, time of forward + backward of both in float32, and temporary memory. Prints
a table and writes record.json and speedup.png.
"""

import functools
import json
import statistics
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments.command import run
from experiments.flags import define_compare_flags, explain, whole_numbers
from experiments.logs import quiet_logs
from experiments.plots import save_speedup_plot
from pallas_kernels import DeltaRuleOutput, delta_rule
from pallas_kernels._common.timing import machine_info, time_call
from pallas_kernels.delta_rule.workloads import make_inputs

NAMES = ("output", "final_state", "dq", "dk", "dv", "dbeta")


@functools.partial(jax.jit, static_argnames="implementation")
def outputs_and_gradients(args, cotangents, implementation):
    """NAMES, for given cotangents of output and final state."""
    out, vjp = jax.vjp(functools.partial(delta_rule, implementation=implementation), *args)
    return (*out, *vjp(cotangents))


def measure(length: int, head_dim: int, heads: int, repetitions: int) -> dict:
    """One row of the table."""
    args = make_inputs(jax.random.key(0), 1, length, heads, head_dim, head_dim)
    keys = jax.random.split(jax.random.key(1))
    cotangents = DeltaRuleOutput(
        jax.random.normal(keys[0], args[2].shape),
        jax.random.normal(keys[1], (1, heads, head_dim, head_dim)),
    )
    row: dict = {"length": length, "head_dim": head_dim, "heads": heads, "batch": 1}
    for name in ("xla", "reference"):
        run = functools.partial(outputs_and_gradients, implementation=name)
        row[f"{name}_seconds"] = time_call(run, args, cotangents, repetitions=repetitions)
        compiled = outputs_and_gradients.lower(args, cotangents, implementation=name).compile()
        row[f"{name}_temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
    row["speedup"] = statistics.median(row["reference_seconds"]) / statistics.median(
        row["xla_seconds"]
    )
    got = outputs_and_gradients(args, cotangents, "xla")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), (args, cotangents))
        wanted = outputs_and_gradients(*wide, "reference")
        errors = {
            name: float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))
            for name, a, b in zip(NAMES, got, map(np.asarray, wanted), strict=True)
        }
    return row | {"rms_errors": errors}


def table(rows: list[dict]) -> str:
    """The measured rows as a Markdown table."""
    lines = [
        "| length | head size | largest RMS error | chunkwise, ms | `lax.scan`, ms | speed-up "
        "| temporary memory, `lax.scan` / chunkwise |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        worst = max(r["rms_errors"], key=r["rms_errors"].get)
        xla, scan = (1e3 * statistics.median(r[f"{n}_seconds"]) for n in ("xla", "reference"))
        memory = r["reference_temporary_bytes"] / r["xla_temporary_bytes"]
        lines.append(
            f"| {r['length']} | {r['head_dim']} | {r['rms_errors'][worst]:.1e} ({worst}) "
            f"| {xla:.1f} | {scan:.1f} | {r['speedup']:.1f} | {memory:.1f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        lengths = whole_numbers("lengths", values.lengths)
        head_dims = whole_numbers("head_dims", values.head_dims)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    cases = [(n, d) for d in head_dims for n in lengths]
    rows = [
        measure(length, head_dim, values.heads, values.repetitions)
        for length, head_dim in tqdm(cases, unit="case", file=sys.stderr)
    ]
    directory = Path(values.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    record = {"rows": rows, "machine": machine_info()}
    (directory / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    picture = save_speedup_plot(directory / "speedup.png", rows, record["machine"]["device"])
    print(table(rows))
    print(f"\nPicture: {picture}\nRecord:  {directory / 'record.json'}")


if __name__ == "__main__":
    matplotlib.use("Agg")
    define_compare_flags()
    run(main)
