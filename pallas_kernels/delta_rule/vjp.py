# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the chunkwise form one differentiable function with the hand-written backward pass.

Why this is not `jax.custom_vjp`: a custom_vjp function refuses forward mode, and the operator
promises it. What custom_vjp does is a linear map (output tangents from input tangents) whose
transpose is written by hand; here that map is a primitive of its own:

    reverse mode   transposes it: `chunked.backward` runs, on the residuals named below;
    forward mode   evaluates it: the tangent of `chunked.forward`, derived by JAX;
    higher orders  differentiate either, which are plain JAX code.

Residuals are the operator's inputs and nothing else: inverses (T x C) and chunk states
(T x K x V / C) are recomputed, as in Yang et al. 2024, section 3.2.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

from pallas_kernels.delta_rule import chunked


class DeltaRuleResiduals(NamedTuple):
    """What the backward pass is computed from."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    beta: jax.Array
    initial_state: jax.Array
    segments: jax.Array | None


@functools.partial(jax.custom_jvp, nondiff_argnums=(6, 7))
def _delta_rule(q, k, v, beta, initial_state, segments, scale, chunk_size):
    return chunked.forward(
        q, k, v, beta, initial_state, segments, scale=scale, chunk_size=chunk_size
    )


def delta_rule_chunked(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """`chunked.forward`, differentiated by `chunked.backward`."""
    return _delta_rule(q, k, v, beta, initial_state, segments, scale, chunk_size)


@_delta_rule.defjvp
def _delta_rule_jvp(scale, chunk_size, primals, tangents):
    residuals = DeltaRuleResiduals(*primals)
    outputs = _delta_rule(*residuals, scale, chunk_size)
    # Segments are integers: their tangent is empty and they are the last entry, if any.
    given = [x for x in residuals if x is not None]
    tangents_out = _tangent_p.bind(*given, *tangents[:5], scale=scale, chunk_size=chunk_size)
    return outputs, tuple(tangents_out)


# --- the linear map ---------------------------------------------------------------------------

_NUM_LINEAR = 5  # tangents of q, k, v, beta, initial_state, always the last operands
_tangent_p = Primitive("delta_rule_tangent")
_tangent_p.multiple_results = True


def _split(operands) -> tuple[DeltaRuleResiduals, tuple]:
    residuals, linear = operands[:-_NUM_LINEAR], operands[-_NUM_LINEAR:]
    segments = residuals[5] if len(residuals) == 6 else None
    return DeltaRuleResiduals(*residuals[:5], segments), tuple(linear)


def _tangent(*operands, scale, chunk_size):
    (*primals, segments), tangents = _split(operands)

    def forward(*args):
        return chunked.forward(*args, segments, scale=scale, chunk_size=chunk_size)

    return list(jax.jvp(forward, tuple(primals), tangents)[1])


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def _backward(residuals: DeltaRuleResiduals, do, dfinal_state, scale, chunk_size):
    return chunked.backward(*residuals, do, dfinal_state, scale=scale, chunk_size=chunk_size)


def _transpose(cotangents, *operands, scale, chunk_size):
    residuals, linear = _split(operands)
    do, dfinal_state = (ad.instantiate_zeros(ct) for ct in cotangents)
    grads = _backward(residuals, do, dfinal_state, scale, chunk_size)
    wanted = [
        grad if ad.is_undefined_primal(x) else None for x, grad in zip(linear, grads, strict=True)
    ]
    return [None] * (len(operands) - _NUM_LINEAR) + wanted


def _abstract_eval(*operands, scale, chunk_size):
    del scale, chunk_size
    _, (_, _, dv, _, dinitial_state) = _split(operands)
    return [dv, dinitial_state]  # the output is shaped like v, the final state like the initial


def _batch(operands, dims, *, scale, chunk_size):
    """A mapped axis becomes part of the batch axis, the first of every operand."""
    size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)

    def fold(x, d):
        x = jnp.broadcast_to(x, (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
        return x.reshape(size * x.shape[1], *x.shape[2:])

    folded = [fold(x, d) for x, d in zip(operands, dims, strict=True)]
    outputs = _tangent_p.bind(*folded, scale=scale, chunk_size=chunk_size)
    return [x.reshape(size, x.shape[0] // size, *x.shape[1:]) for x in outputs], [0, 0]


def _jvp(primals, tangents, *, scale, chunk_size):
    """Second order in forward mode: JAX's own derivative of the tangent map."""
    floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in primals]

    def tangent(*float_operands):
        left = iter(float_operands)
        operands = [next(left) if f else x for f, x in zip(floats, primals, strict=True)]
        return _tangent(*operands, scale=scale, chunk_size=chunk_size)

    return jax.jvp(
        tangent,
        [x for x, f in zip(primals, floats, strict=True) if f],
        [ad.instantiate_zeros(t) for t, f in zip(tangents, floats, strict=True) if f],
    )


_tangent_p.def_impl(
    lambda *operands, **params: jax.jit(functools.partial(_tangent, **params))(*operands)
)
_tangent_p.def_abstract_eval(_abstract_eval)
mlir.register_lowering(_tangent_p, mlir.lower_fun(_tangent, multiple_results=True))
ad.primitive_transposes[_tangent_p] = _transpose
ad.primitive_jvps[_tangent_p] = _jvp
batching.primitive_batchers[_tangent_p] = _batch
