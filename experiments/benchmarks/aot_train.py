# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles whole training steps for an H200 without a GPU, and compares their memory with
deltanet_jax/train/memory.py's estimate: python -m experiments.benchmarks.aot_train

Prints, for each case, the peak of the compiler's own plan, the estimate and their ratio; the exit
code is 1 if one is off by more than 10 %. Half a minute a case. Needs requirements-aot.txt.
"""

import dataclasses
import functools
import os
import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from deltanet_jax import presets
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.train import step
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.memory import estimate
from deltanet_jax.train.optimizer import make_optimizer
from experiments.benchmarks import aot
from pallas_kernels.delta_rule import api as delta_rule
from pallas_kernels.short_conv import api as short_conv

TOLERANCE = 0.1
# remat, residuals, param_dtype, rows, tokens
CASES = (
    ("products", "recompute", "float32", 16, 2048),
    ("products", "recompute", "bfloat16", 16, 2048),
    ("products", "recompute", "float32", 4, 8192),
    ("products", "recompute", "float32", 32, 2048),
    ("arguments", "save", "float32", 16, 2048),
    ("full", "recompute", "float32", 16, 2048),
    ("none", "recompute", "float32", 4, 2048),
)


def compiled_peak(model, config: TrainConfig, rows: int, columns: int, sharding) -> int:
    """Bytes that the compiled step of one device needs at its peak: arguments and temporaries."""
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = jax.eval_shape(functools.partial(step.init_state, model, optimizer, 0))
    tokens = jax.ShapeDtypeStruct((rows, columns), jnp.int32)
    weights = jax.ShapeDtypeStruct((rows, columns), jnp.float32)
    batch = {"inputs": tokens, "targets": tokens, "weights": weights}
    state, batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), (state, batch)
    )
    sizes = {"positions": -(-config.loss_chunk_tokens // rows), "pieces": 1}
    graph = step.model_graph(model)
    run = functools.partial(step.train_step, graph, optimizer, sizes, 1, config.guard_sizes)
    with jax.sharding.use_abstract_mesh(aot.MESH):
        memory = jax.jit(run, donate_argnums=0).lower(state, batch).compile().memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def main() -> int:
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    aot.use_wheels_ptxas()
    # No GPU is here to ask whether it takes the kernels; the one compiled for does.
    for operator in (delta_rule, short_conv):
        kernels, *others = operator.IMPLEMENTATIONS
        kernels = dataclasses.replace(kernels, unsupported=lambda *a, **k: None)
        operator.IMPLEMENTATIONS = (kernels, *others)
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="h200", topology="1x1x1", target_config=aot.TARGET
    )
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    sharding = NamedSharding(mesh, PartitionSpec())
    print("| remat | residuals | weights | batch | compiled, GiB | estimate, GiB | ratio | s |")
    print("|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for remat, residuals, dtype, rows, columns in CASES:
        mixer = DeltaNetConfig(num_heads=16, residuals=residuals)
        options = {"layer_pattern": (mixer,), "remat": remat, "param_dtype": dtype}
        # A loop over layers compiles faster and needs as much.
        model = presets.deltanet_1b3().replace(scan_unroll=1, **options)
        config = TrainConfig(batch_size=rows)
        start = time.perf_counter()
        peak = compiled_peak(model, config, rows, columns, sharding)
        seconds = time.perf_counter() - start
        guess = estimate(Trainer(model, config, jax.devices()[:1]), config, columns).total
        worst = max(worst, abs(guess / peak - 1))
        print(
            f"| {remat} | {residuals} | {dtype} | {rows} x {columns} "
            f"| {peak / 2**30:.1f} | {guess / 2**30:.1f} "
            f"| {guess / peak:.3f} | {seconds:.0f} |",
            flush=True,
        )
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
