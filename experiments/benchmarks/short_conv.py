# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short depthwise causal convolution with SiLU, as DeltaNet uses it before v.

"short_conv_norm" has the L2 norm of heads of 128 after it, in the same pass, as before q and k;
"short_conv_segments" is that with packed documents: eight segments in every row.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

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

SEGMENTS = 8
HEAD = 128


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


def _run(x, weight, segment_ids=None, *, implementation: str, norm_size: int | None) -> Arrays:
    options = {"norm_size": norm_size, "implementation": implementation}
    return (short_conv(x, weight, segment_ids=segment_ids, activation="silu", **options),)


def _implementations(norm_size: int | None) -> dict:
    return {
        name: functools.partial(_run, implementation=name, norm_size=norm_size)
        for name in ("pallas", "xla")
    }


def definition(x, weight, segment_ids=None, *, norm_size: int | None = None) -> Arrays:
    """y_t = silu(sum_j weight_j x_{t-j}), tap by tap, and its norm."""
    length = x.shape[1]
    y = 0
    for back in range(min(weight.shape[0], length)):
        tap = jnp.pad(x, ((0, 0), (back, 0), (0, 0)))[:, :length]
        if segment_ids is not None:
            ids = jnp.pad(segment_ids, ((0, 0), (back, 0)), constant_values=-1)[:, :length]
            tap = jnp.where((ids == segment_ids)[..., None], tap, 0)
        y = y + tap * weight[back][None, None]
    y = y * jax.nn.sigmoid(y)
    if norm_size is not None:
        heads = y.reshape(*y.shape[:2], -1, norm_size)
        y = (heads / jnp.sqrt((heads * heads).sum(-1, keepdims=True) + 1e-6)).reshape(y.shape)
    return (y,)


@functools.cache
def _results(norm_size: int | None):
    return jax.jit(
        timed_call(functools.partial(definition, norm_size=norm_size), "forward_and_vjp")
    )


def reference(inputs: Inputs, *, norm_size: int | None = None) -> Reference:
    """The definition in float32; in float64 on the channels of a head of it."""
    args, cotangents = jax.tree.map(lambda x: x.astype(jnp.float32), inputs[:2])
    call = _results(norm_size)
    results = call(Inputs(args, cotangents, inputs.constants))
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x[..., :HEAD], np.float64)), (args, cotangents)
        )
        wanted = call(Inputs(*wide, tuple(jnp.asarray(np.asarray(x)) for x in inputs.constants)))
        wanted = [np.asarray(x) for x in wanted]
    error = max(
        rms_error(np.asarray(x[..., :HEAD], np.float64), y)
        for x, y in zip(results, wanted, strict=True)
    )
    return Reference(results, "definition, float32", f"definition, float64, {HEAD} channels", error)


def flop(shape: Shape, mode: str) -> int:
    """2 W a number forward, the same again for each of dx and dweight; no matrix products, so that
    the bytes' floor is far above this one."""
    products = 2 * shape["B"] * shape["T"] * shape["D"] * shape["W"]
    return products * {"forward": 1, "vjp": 3, "forward_and_vjp": 4}[mode]


def _xla(norm_size: int | None) -> Peer:
    return Peer(lambda: _implementations(norm_size)["xla"], framework="jax")


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
    implementations=_implementations(None),
    outputs=("y",),
    arguments=("x", "weight"),
    reference=reference,
    flop=flop,
    peers={"xla": _xla(None), "fla": Peer(_fla, give=_give_fla, take=_take_fla)},
)

SHORT_CONV_NORM = dataclasses.replace(
    SHORT_CONV,
    name="short_conv_norm",
    implementations=_implementations(HEAD),
    reference=functools.partial(reference, norm_size=HEAD),
    peers={"xla": _xla(HEAD)},
)

SHORT_CONV_SEGMENTS = dataclasses.replace(
    SHORT_CONV_NORM, name="short_conv_segments", make_inputs=inputs_with_segments
)
