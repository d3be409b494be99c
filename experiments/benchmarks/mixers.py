# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Times every mixer alone: python -m experiments.benchmarks.mixers --record_dir=DIR

A mixer's forward and backward pass, gradients of its weights and of its input, in bfloat16 with
float32 weights: a layer of a model without norm and SwiGLU, 32,768 tokens by default. Its order may
be set beside that of the paper's figure of throughputs. Rows are JSON lines, written as they are
finished; a mixer that fails, for want of memory above all, is named at the end.
"""

import sys
import uuid
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx
from tqdm import tqdm

from deltanet_jax.mixers.base import Context, MixerConfig
from deltanet_jax.mixers.registry import MIXERS, make_mixer
from experiments.benchmarks import records
from experiments.benchmarks.flags import define_mixers_benchmark_flags
from experiments.benchmarks.operation import rms_error
from experiments.benchmarks.timing import Clock
from experiments.command import run
from experiments.flags import explain
from experiments.logs import quiet_logs
from experiments.mixers_report import flops

CHECKED = 256  # tokens on which 16 bits are compared with 32


def _split(config: MixerConfig, d_model: int, dtype) -> tuple[nnx.GraphDef, nnx.State]:
    """The mixer with float32 weights that computes in `dtype`."""
    context = Context(
        d_model=d_model,
        init_std=0.02,
        out_init_std=0.02,
        norm_eps=1e-6,
        dtype=dtype,
        param_dtype=jnp.float32,
    )
    return nnx.split(make_mixer(config, context, rngs=nnx.Rngs(0)))


def time_mixer(
    config: MixerConfig, clock: Clock, sizes: dict[str, int], repetitions: int, max_seconds: float
) -> dict[str, object]:
    """One row, without the machine; `sizes` are B, T, D.

    Raises:
        FloatingPointError: a result is not finite.
        jax.errors.JaxRuntimeError: out of memory, and the like.
    """
    batch, length, d_model = sizes.values()
    graph, weights = _split(config, d_model, jnp.bfloat16)

    def run(weights, x, cotangent):
        y, vjp = jax.vjp(lambda weights, x: nnx.merge(graph, weights)(x)[0], weights, x)
        return y, vjp(cotangent)

    def make_input(seed: int) -> jax.Array:
        shape = (batch, length, d_model)
        return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)

    inputs = [make_input(seed) for seed in range(clock.rotation(2 * make_input(0).nbytes) + 1)]
    compiled = jax.jit(run).lower(weights, inputs[0], inputs[1]).compile()
    memory = compiled.memory_analysis()
    pairs = zip(inputs, inputs[1:], strict=False)
    calls = [lambda x=x, dy=dy: compiled(weights, x, dy) for x, dy in pairs]
    times = clock.time(calls, repetitions=repetitions, max_seconds=max_seconds)
    if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(times.last)):
        raise FloatingPointError(f"{config.kind}: a result is not finite")

    wide_graph, _ = _split(config, d_model, jnp.float32)
    x = inputs[0][:1, :CHECKED]
    y, wanted = (
        jax.jit(lambda x, graph=graph: nnx.merge(graph, weights)(x)[0])(x.astype(dtype))
        for graph, dtype in ((graph, jnp.bfloat16), (wide_graph, jnp.float32))
    )
    tokens_per_second = batch * length / times.median_ms * 1e3
    return {
        "op": "mixers",
        "shape": sizes,
        "dtype": "bfloat16",
        "mode": "forward_and_vjp",
        "implementation": config.kind,
        **times.summary(),
        "tokens_per_second": round(tokens_per_second, 1),
        "flops_per_token": flops(config, d_model, length),
        "memory_bytes": memory.temp_size_in_bytes + memory.output_size_in_bytes,
        "rms_error": {"y": rms_error(y, wanted)},
        "config": config.to_dict(),
        "date": records.now(),
    }


def chosen(values: flags.FlagValues) -> list[MixerConfig]:
    """The mixers that --mixers names, with their own defaults. Raises ValueError."""
    for kind in values.mixers:
        if kind not in MIXERS:
            raise ValueError(f"mixers: wanted some of {sorted(MIXERS)}, got {kind!r}")
    return [MIXERS[kind][0]() for kind in values.mixers]


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        configs = chosen(values)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    sizes = {"B": values.rows, "T": values.columns, "D": values.d_model}
    about = records.machine(values.commit) | {"run": uuid.uuid4().hex}
    clock, failures = Clock(), []
    for config in tqdm(configs, unit="mixer", file=sys.stderr):
        try:
            row = time_mixer(config, clock, sizes, values.repetitions, values.max_seconds)
        except (jax.errors.JaxRuntimeError, FloatingPointError, ValueError) as error:
            failures.append(f"{config.kind}: {str(error).splitlines()[0]}")
            continue
        tqdm.write(
            f"{config.kind}: {row['tokens_per_second']:,.0f} tokens/s, {row['median_ms']:.2f} ms, "
            f"{row['memory_bytes'] / 2**30:.1f} GiB, RMS error {row['rms_error']['y']:.1e}",
            file=sys.stdout,
        )
        sys.stdout.flush()
        if values.record_dir:
            records.append(Path(values.record_dir), about | row)
    if failures:
        sys.exit("\n".join(["error: not all mixers are there:", *failures]))


if __name__ == "__main__":
    define_mixers_benchmark_flags()
    run(main)
