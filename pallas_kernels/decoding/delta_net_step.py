# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One token of a DeltaNet layer, between its projections."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels._common import checks, dispatch, triton_device
from pallas_kernels.decoding.row_product import normalize
from pallas_kernels.delta_rule.step import delta_rule_step

L2_EPS = 1e-6
KEY_SIZES, VALUE_SIZES = (32, 64, 128), (32, 64, 128, 256)


class Columns(NamedTuple):
    """Where queries, keys, values and write strengths begin in the common projection."""

    q: int
    k: int
    v: int
    beta: int


class DeltaNetStep(NamedTuple):
    """What `delta_net_step` returns.

    Attributes:
        output: [B, H V] in the projection's dtype.
        tails: of the three convolutions, each [B, W - 1, H K or H V].
        state: [B, H, K, V], float32 (float64 for float64).
    """

    output: jax.Array
    tails: tuple[jax.Array, jax.Array, jax.Array]
    state: jax.Array


def _convolved(new, tail, taps):
    """(silu of the convolution's output [B, C], the tail after `new`)."""
    wide = jnp.promote_types(new.dtype, jnp.float32)
    inputs = jnp.concatenate([tail, new[:, None]], axis=1)
    y = jnp.sum(inputs.astype(wide) * taps[::-1][None].astype(wide), axis=1)
    return jax.nn.silu(y.astype(new.dtype)), inputs[:, 1:]


def _unit(x):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    length = jnp.sum(wide * wide, axis=-1, keepdims=True) + L2_EPS
    return (wide * jax.lax.rsqrt(length)).astype(x.dtype)


def _xla(projected, tails, taps, norm_scale, state, *, columns, beta_scale, norm_eps, scale):
    batch, heads, key_size, value_size = state.shape
    sizes = (heads * key_size, heads * key_size, heads * value_size)
    (q, k, v), tails = zip(
        *(
            _convolved(projected[:, start : start + size], tail, weight)
            for start, size, tail, weight in zip(columns[:3], sizes, tails, taps, strict=True)
        ),
        strict=True,
    )
    q, k, v = (x.reshape(batch, heads, -1) for x in (q, k, v))
    beta = beta_scale * jax.nn.sigmoid(projected[:, columns.beta : columns.beta + heads])
    output, state = delta_rule_step(state, _unit(q), _unit(k), v, beta, scale=scale)
    output = normalize(output, norm_scale, norm_eps)
    return DeltaNetStep(output.reshape(batch, -1), tails, state)


def _triton(*args, **options):
    # Imported when used: jax-triton is an extra and cannot be imported without a GPU.
    from pallas_kernels.decoding.triton_calls import delta_net_step_triton

    return delta_net_step_triton(*args, **options)


def _unsupported(projected, tails, taps, norm_scale, state, **options) -> str | None:
    del tails, norm_scale, options  # any will do
    if taps[0].shape[0] < 2:
        return "the kernel takes at least 2 taps, got 1"
    key_size, value_size = state.shape[2:]
    if key_size not in KEY_SIZES or value_size not in VALUE_SIZES:
        return f"the kernel takes K in {KEY_SIZES} and V in {VALUE_SIZES}, got {state.shape}"
    return triton_device.unavailable(projected.dtype)


IMPLEMENTATIONS = (  # in order of preference
    dispatch.Implementation("triton", _triton, _unsupported),
    dispatch.Implementation("xla", _xla, lambda *args, **kwargs: None),
)


def delta_net_step(
    projected: Float[Array, "B P"],
    tails: tuple[jax.Array, jax.Array, jax.Array],
    taps: tuple[jax.Array, jax.Array, jax.Array],
    norm_scale: Float[Array, "V"],
    state: Float[Array, "B H K V"],
    *,
    columns: Columns | tuple[int, int, int, int],
    beta_scale: float = 1.0,
    norm_eps: float = 1e-6,
    scale: float | None = None,
    implementation: str | None = None,
) -> DeltaNetStep:
    """Short convolutions with SiLU, L2 norm of q and k, the delta rule, RMSNorm of every head.

    With z the projections of this token, w the taps and the tail the projections before it:
        u_c = silu(sum_{j < W} w_{j,c} z_{-j,c}) for the channels of q, k and v;
        q, k = u / sqrt(|u|^2 + 1e-6) a head;  beta = beta_scale sigmoid(z_beta);
        S' = S + beta k (v - S^T k)^T;  o = scale S'^T q;
        output = norm_scale o / sqrt(mean o^2 + norm_eps) a head.

    Args:
        projected: [B, P], what the projections of q, k, v and beta gave, side by side; float32,
            bfloat16, float16 or float64 (under x64).
        tails: of q, k, v: the W - 1 projections before this one, oldest first, [B, W - 1, H K] (for
            v: H V), in projected.dtype. W >= 2.
        taps: of q, k, v: [W, H K] (for v: [W, H V]) in any of these dtypes; tap j multiplies the
            input j tokens back.
        norm_scale: [V] in any of these dtypes.
        state: [B, H, K, V], float32 (float64 for float64).
        columns: where q [H K], k [H K], v [H V] and beta's logits [H] begin in P.
        beta_scale: 1, or 2 with negative eigenvalues. As norm_eps and scale (K**-0.5 by default) a
            Python number, not traced.
        implementation: "triton" (K of 32, 64 or 128, V also of 256; GPUs of compute capability
            8.0, 8.6, 8.9 and 9.0 with jax-triton; any dtype but float64), "xla" (any platform), or
            None: the first that can run here.
    Returns:
        DeltaNetStep(output [B, H V], tails, state). "triton" writes tails and state over the old
        ones where those are not used again.
    Raises:
        ValueError: a rank, an axis or an option is not as above.
        TypeError: a dtype is not as above.
        NotImplementedError: the requested implementation cannot run here; the message says why.
    Numerics: float32 inside. "triton" rounds to projected.dtype once, at the end; "xla" after the
        convolution, SiLU, the L2 norm, the read-out and the norm.
    Cost: 6 K V FLOP a head; "triton" reads and writes every state once. No gradients in "triton".
    Source: Yang et al. 2024, arXiv:2406.06484, sections 2.2 and 3.3.
    """
    checks.check_rank("projected", projected, "B P")
    checks.check_float_dtype("projected", projected)
    checks.check_rank("state", state, "B H K V")
    sizes = dict(zip("BHKV", state.shape, strict=True)) | {"P": projected.shape[1]}
    sizes["B"] = projected.shape[0]
    checks.check_state("state", state, sizes, projected.dtype)
    checks.check_rank("taps", taps[0], "W C")
    sizes["W"] = taps[0].shape[0]
    if sizes["W"] < 2:
        raise ValueError(f"taps: wanted at least 2, got {sizes['W']}")
    sizes["past"] = sizes["W"] - 1
    widths = [sizes["H"] * sizes["K"]] * 2 + [sizes["H"] * sizes["V"]]
    for name, tail, weight, width in zip("qkv", tails, taps, widths, strict=True):
        both = sizes | {"C": width}
        checks.check_shape(f"taps of {name}", weight, "W C", both)
        checks.check_float_dtype(f"taps of {name}", weight)
        checks.check_shape(f"tail of {name}", tail, "B past C", both)
        checks.check_same_dtype(f"tail of {name}", tail, "projected", projected)
    checks.check_shape("norm_scale", norm_scale, "V", sizes)
    checks.check_float_dtype("norm_scale", norm_scale)
    for name, start, width in zip(Columns._fields, columns, (*widths, sizes["H"]), strict=True):
        if not 0 <= start <= sizes["P"] - width:
            raise ValueError(
                f"columns: wanted {name} in 0..{sizes['P'] - width} of {sizes['P']}, got {start}"
            )
    args = (projected, tuple(tails), tuple(taps), norm_scale, state)
    options = {
        "columns": Columns(*columns),
        "beta_scale": checks.check_number("beta_scale", beta_scale),
        "norm_eps": checks.check_number("norm_eps", norm_eps),
        "scale": sizes["K"] ** -0.5 if scale is None else checks.check_number("scale", scale),
    }
    results = dispatch.call("delta_net_step", IMPLEMENTATIONS, implementation, *args, **options)
    return DeltaNetStep(*results)
