# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The L2 norm of queries and keys, as DeltaNet takes it: both in one call."""

import jax
import jax.numpy as jnp
import numpy as np

from deltanet_jax.layers.norm import l2_norm
from experiments.benchmarks.operation import (
    Arrays,
    Inputs,
    Operation,
    Peer,
    Reference,
    Shape,
    rms_error,
    timed_call,
)
from pallas_kernels import short_conv


def inputs(key: jax.Array, shape: Shape) -> Inputs:
    """bfloat16 q, k [B, T, H, K] and cotangents, standard normal."""
    arrays = tuple(
        jax.random.normal(k, tuple(shape.values()), jnp.float32).astype(jnp.bfloat16)
        for k in jax.random.split(key, 4)
    )
    return Inputs(arrays[:2], arrays[2:])


def xla(q, k) -> Arrays:
    return l2_norm(q), l2_norm(k)


def pallas(q, k) -> Arrays:
    """By the short convolution's kernels, with one tap that is 1, as `activate_and_normalize`."""

    def norm(x):
        one = jnp.ones((1, x.shape[2] * x.shape[3]), jnp.float32)
        flat = x.reshape(*x.shape[:2], -1)
        return short_conv(flat, one, norm_size=x.shape[3], implementation="pallas").reshape(x.shape)

    return norm(q), norm(k)


def definition(q, k) -> Arrays:
    """x / sqrt(sum x^2 + 1e-6) over the last axis."""
    return tuple(x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (q, k))


_results = jax.jit(timed_call(definition, "forward_and_vjp"))


def reference(inputs: Inputs) -> Reference:
    """The definition in float32; in float64 on one batch row of it."""
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
    results = _results(wide)
    with jax.enable_x64(True):
        row = jax.tree.map(lambda x: jnp.asarray(np.asarray(x[:1], np.float64)), wide)
        wanted = [np.asarray(x) for x in _results(row)]
    error = max(
        rms_error(np.asarray(x[:1], np.float64), y) for x, y in zip(results, wanted, strict=True)
    )
    return Reference(results, "definition, float32", "definition, float64, 1 row", error)


def flop(shape: Shape, mode: str) -> int:
    """About 4 a number and pass; no matrix products, so the bytes' floor is far above this one."""
    numbers = 2 * shape["B"] * shape["T"] * shape["H"] * shape["K"]
    return 4 * numbers * {"forward": 1, "vjp": 2, "forward_and_vjp": 3}[mode]


def _fla():
    from fla.modules.norm.l2norm import l2norm

    return lambda q, k: (l2norm(q), l2norm(k))


L2_NORM = Operation(
    name="l2_norm",
    axes="BTHK",
    shapes=({"B": 16, "T": 2048, "H": 16, "K": 128},),
    reduced_shapes=({"B": 2, "T": 64, "H": 2, "K": 64},),
    modes=("forward", "vjp"),
    make_inputs=inputs,
    implementations={"pallas": pallas, "xla": xla},
    outputs=("q", "k"),
    arguments=("q", "k"),
    reference=reference,
    flop=flop,
    peers={"xla": Peer(lambda: xla, framework="jax"), "fla": Peer(_fla)},
)
