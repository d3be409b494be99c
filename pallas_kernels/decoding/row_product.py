# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A linear map of one token, with what stands before and after it in a residual block."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels._common import checks, dispatch, triton_device


def normalize(
    x: Float[Array, "*L D"], scale: Float[Array, "D"], eps: float
) -> Float[Array, "*L D"]:
    """RMSNorm over the last axis, in float32 (float64 for float64), in x.dtype."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    factor = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    lead = (1,) * (x.ndim - 1)
    return (wide * factor * scale.astype(wide.dtype).reshape(*lead, -1)).astype(x.dtype)


def _xla(x, weight, norm_scale, residual, *, norm_eps, gated):
    if norm_scale is not None:
        x = normalize(x, norm_scale, norm_eps)
    if x.shape[0] > 1:
        y = jnp.einsum("bd,nd->bn", x, weight)
    else:  # matrix products would fill tiles of rows that are not there
        wide = jnp.promote_types(x.dtype, jnp.float32)
        y = jnp.sum(x.astype(wide) * weight.astype(wide), axis=-1).astype(x.dtype)[None]
    if gated:
        gate, up = jnp.split(y, 2, axis=-1)
        y = jax.nn.silu(gate) * up
    return y if residual is None else residual + y


def _triton(*args, **options):
    # Imported when used: jax-triton is an extra and cannot be imported without a GPU.
    from pallas_kernels.decoding.triton_calls import row_product_triton

    return row_product_triton(*args, **options)


def _unsupported(x, weight, norm_scale, residual, *, norm_eps, gated) -> str | None:
    del weight, norm_scale, residual, norm_eps, gated  # any will do
    if x.shape[0] != 1:
        return f"the kernel takes one row, got {x.shape[0]}"
    return triton_device.unavailable(x.dtype)


IMPLEMENTATIONS = (  # in order of preference
    dispatch.Implementation("triton", _triton, _unsupported),
    dispatch.Implementation("xla", _xla, lambda *args, **kwargs: None),
)


def row_product(
    x: Float[Array, "B D"],
    weight: Float[Array, "N D"],
    *,
    norm_scale: Float[Array, "D"] | None = None,
    norm_eps: float = 1e-6,
    gated: bool = False,
    residual: Float[Array, "B M"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B M"]:
    """y = weight u for every row of x, where u = x or x norm_scale / sqrt(mean x^2 + norm_eps).

    `gated` takes the upper half of the weight's rows as a gate: y = silu(W_1 u) * (W_2 u). Then
    `residual` is added. The weight lies as [outputs, inputs]: an output is a sum over memory in
    order.

    Args:
        x: [B, D], float32, bfloat16, float16 or float64 (under x64). Meant for B = 1, where the
            time is that of reading the weight; more rows are a matrix product of XLA's.
        weight: [N, D] in x.dtype.
        norm_scale: [D] in any of these dtypes; None: x is taken as it is.
        norm_eps: a Python number, not traced.
        gated: N is even.
        residual: [B, M] in x.dtype.
        implementation: "triton" (B = 1; GPUs of compute capability 8.0, 8.6, 8.9 and 9.0 with
            jax-triton; any dtype but float64), "xla" (anything, any platform), or None: the first
            that can run here.
    Returns:
        y [B, M] in x.dtype; M is N, or N / 2 with `gated`.
    Raises:
        ValueError: a rank, an axis, gated or implementation is not as above.
        TypeError: a dtype is not as above.
        NotImplementedError: the requested implementation cannot run here; the message says why.
    Numerics: sums in float32. "triton" rounds to x.dtype once, at the end; "xla" after the norm,
        the product, the gate and the sum.
    Cost: 2 N D FLOP a row; reads the weight once. No gradients in "triton".
    """
    checks.check_rank("x", x, "B D")
    checks.check_float_dtype("x", x)
    checks.check_rank("weight", weight, "N D")
    sizes = {"B": x.shape[0], "D": x.shape[1], "N": weight.shape[0]}
    checks.check_shape("weight", weight, "N D", sizes)
    checks.check_same_dtype("weight", weight, "x", x)
    if gated and sizes["N"] % 2:
        raise ValueError(f"weight: wanted an even number of rows with gated, got {sizes['N']}")
    sizes["M"] = sizes["N"] // 2 if gated else sizes["N"]
    if norm_scale is not None:
        checks.check_shape("norm_scale", norm_scale, "D", sizes)
        checks.check_float_dtype("norm_scale", norm_scale)
    if residual is not None:
        checks.check_shape("residual", residual, "B M", sizes)
        checks.check_same_dtype("residual", residual, "x", x)
    args = (x, weight, norm_scale, residual)
    options = {"norm_eps": checks.check_number("norm_eps", norm_eps), "gated": bool(gated)}
    return dispatch.call("row_product", IMPLEMENTATIONS, implementation, *args, **options)
