# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule, one decay a head: 32,768 tokens, with initial and final state."""

import functools

import jax
import jax.numpy as jnp

from experiments.benchmarks import delta_rule
from experiments.benchmarks.operation import Arrays, Inputs, Operation, Peer, Shape
from pallas_kernels import gated_delta_rule


def inputs(key: jax.Array, shape: Shape) -> Inputs:
    """The plain rule's, and float32 g, log-uniform from -1e-3 to -1: 1 to 1000 tokens of memory."""
    plain = delta_rule.inputs(key, shape)
    q, k, v, beta, state = plain.args
    exponent = jax.random.uniform(jax.random.fold_in(key, 1), beta.shape, jnp.float32, -3, 0)
    return plain._replace(args=(q, k, v, -(10**exponent), beta, state))


def run(q, k, v, g, beta, state, **options) -> Arrays:
    """The operator with a state in and out."""
    return tuple(gated_delta_rule(q, k, v, g, beta, initial_state=state, **options))


def _fla():
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return lambda q, k, v, g, beta, state: chunk_gated_delta_rule(
        q, k, v, g, beta, initial_state=state, output_final_state=True
    )


def _ours(**options) -> Peer:
    return Peer(lambda: functools.partial(run, **options), framework="jax")


GATED_DELTA_RULE = Operation(
    name="gated_delta_rule",
    axes="BTHKV",
    shapes=tuple(
        delta_rule.sizes(batch, 32768 // batch, heads, size)
        for heads, size in delta_rule.HEADS[:2]
        for batch in (16, 4, 1)
    ),
    reduced_shapes=(delta_rule.sizes(2, 128, 2, 64),),
    modes=("forward", "forward_and_vjp"),
    make_inputs=inputs,
    implementations={
        name: functools.partial(run, implementation=name) for name in ("pallas", "xla")
    },
    outputs=("output", "final_state"),
    arguments=("q", "k", "v", "g", "beta", "initial_state"),
    reference=delta_rule.make_reference(run),
    flop=delta_rule.flop,
    peers={
        "pallas_save": _ours(implementation="pallas", residuals="save"),
        "xla": _ours(implementation="xla"),
        "fla": Peer(_fla),
    },
)
