# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short depthwise causal convolution with SiLU, as DeltaNet uses it before q, k and v.

"short_conv_segments" is the same with packed documents: eight segments in every row.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltanet_jax.layers.short_conv import ShortConv
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

SEGMENTS = 8


def inputs(key: jax.Array, shape: Shape) -> Inputs:
    """bfloat16 x [B, T, D] and weight [W, D], standard normal."""
    batch, length, size, width = shape.values()
    keys = jax.random.split(key, 3)
    x, dy = (jax.random.normal(k, (batch, length, size), jnp.float32) for k in keys[:2])
    weight = jax.random.normal(keys[2], (width, size), jnp.float32)
    return Inputs((x.astype(jnp.bfloat16), weight.astype(jnp.bfloat16)), (dy.astype(jnp.bfloat16),))


def inputs_with_segments(key: jax.Array, shape: Shape) -> Inputs:
    """The same, and segment_ids [B, T]."""
    ids = jnp.arange(shape["T"], dtype=jnp.int32) * SEGMENTS // shape["T"]
    ids = jnp.broadcast_to(ids, (shape["B"], shape["T"]))
    return inputs(key, shape)._replace(constants=(ids.copy(),))


def run(x, weight, segment_ids=None) -> Arrays:
    """SiLU of the layer."""
    width, size = weight.shape
    kinds = {"dtype": x.dtype, "param_dtype": x.dtype}
    layer = nnx.eval_shape(lambda: ShortConv(size, width, **kinds, rngs=nnx.Rngs(0)))
    layer.weight = nnx.Param(weight)
    return (jax.nn.silu(layer(x, segment_ids=segment_ids)[0]),)


def definition(x, weight, segment_ids=None) -> Arrays:
    """y_t = silu(sum_j weight_j x_{t-j}), tap by tap."""
    length = x.shape[1]
    y = 0
    for back in range(min(weight.shape[0], length)):
        tap = jnp.pad(x, ((0, 0), (back, 0), (0, 0)))[:, :length]
        if segment_ids is not None:
            ids = jnp.pad(segment_ids, ((0, 0), (back, 0)), constant_values=-1)[:, :length]
            tap = jnp.where((ids == segment_ids)[..., None], tap, 0)
        y = y + tap * weight[back][None, None]
    return (y * jax.nn.sigmoid(y),)


_results = jax.jit(timed_call(definition, "forward_and_vjp"))


def reference(inputs: Inputs) -> Reference:
    """The definition in float32; in float64 on 64 channels of it."""
    args, cotangents = jax.tree.map(lambda x: x.astype(jnp.float32), inputs[:2])
    results = _results(Inputs(args, cotangents, inputs.constants))
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x[..., :64], np.float64)), (args, cotangents)
        )
        wanted = _results(
            Inputs(*wide, tuple(jnp.asarray(np.asarray(x)) for x in inputs.constants))
        )
        wanted = [np.asarray(x) for x in wanted]
    error = max(
        rms_error(np.asarray(x[..., :64], np.float64), y)
        for x, y in zip(results, wanted, strict=True)
    )
    return Reference(results, "definition, float32", "definition, float64, 64 channels", error)


def flop(shape: Shape, mode: str) -> int:
    """2 W a number forward, the same again for each of dx and dweight; no matrix products, so that
    the bytes' floor is far above this one."""
    products = 2 * shape["B"] * shape["T"] * shape["D"] * shape["W"]
    return products * {"forward": 1, "vjp": 3, "forward_and_vjp": 4}[mode]


def _fla():
    from fla.modules.causal_conv1d import causal_conv1d

    return lambda x, weight: (causal_conv1d(x, weight, activation="silu")[0],)


def _give_fla(args: tuple) -> tuple:
    """Its weight is [D, W], the oldest token's first."""
    x, weight = args
    return x, weight.flip(0).T.contiguous()


def _take_fla(mode: str, results: tuple) -> tuple:
    return results if mode == "forward" else (*results[:-1], results[-1].T.flip(0))


SHORT_CONV = Operation(
    name="short_conv",
    axes="BTDW",
    shapes=({"B": 16, "T": 2048, "D": 2048, "W": 4},),
    reduced_shapes=({"B": 2, "T": 64, "D": 128, "W": 4},),
    modes=("forward", "vjp"),
    make_inputs=inputs,
    implementations={"xla": run},
    outputs=("y",),
    arguments=("x", "weight"),
    reference=reference,
    flop=flop,
    peers={"fla": Peer(_fla, give=_give_fla, take=_take_fla)},
)

SHORT_CONV_SEGMENTS = dataclasses.replace(
    SHORT_CONV, name="short_conv_segments", make_inputs=inputs_with_segments, peers={}
)
