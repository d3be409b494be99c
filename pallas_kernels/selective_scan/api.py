# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The public door of the selective scan: signature, checks, dispatch."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common import checks, chunking, dispatch
from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.segments import number_segments
from pallas_kernels.selective_scan import triton_support
from pallas_kernels.selective_scan.chunked import selective_scan_chunked, token


def _triton(*args, chunk_size):
    # Imported when used: jax-triton is an extra and cannot be imported without a GPU.
    from pallas_kernels.selective_scan.triton_vjp import selective_scan_triton

    del chunk_size  # the kernels have their own
    return selective_scan_triton(*args)


# In order of preference.
IMPLEMENTATIONS = (
    dispatch.Implementation("triton", _triton, triton_support.unsupported),
    dispatch.Implementation("xla", selective_scan_chunked, lambda *args, **kwargs: None),
)


def selective_scan(
    x: Float[Array, "B T D"],
    dt: Float[Array, "B T D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B T N"],
    c: Float[Array, "B T N"],
    *,
    initial_state: Float[Array, "B N D"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 32,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B N D"]]:
    """Runs S_t = exp(dt_t A) * S_{t-1} + b_t (dt_t x_t)^T, y_t = S_t^T c_t over a sequence.

    Args:
        x: inputs [B, T, D] of one of float32, bfloat16, float16, float64. Any T >= 0.
        dt: time steps [B, T, D], >= 0 (not checked: a value), float32 (float64 for float64 x).
        a: A [N, D], <= 0 (not checked), of dt's dtype; exp(dt_t A)[n, d] = exp(dt_td A_nd).
        b, c: what writes and what reads, [B, T, N], x's dtype.
        initial_state: [B, N, D] in dt's dtype; zeros by default.
        segment_ids: [B, T] integers; a change of id is a boundary that nothing crosses. The initial
            state belongs to the first segment, the final one to the last.
        chunk_size: tokens a chunk of "xla", 16, 32, 64 or 128. Changes speed and rounding only.
        implementation: "triton" (NVIDIA GPUs of compute capability 8.0, 8.6, 8.9 and 9.0 with
            jax-triton; any dtype but float64, N up to 64), "xla" (any platform), or None: the
            first that can run here, logged once.
    Returns:
        (y [B, T, D] in x.dtype, the state after the last token [B, N, D]).
    Raises:
        ValueError, TypeError: a shape, dtype or chunk_size is not as above; names the argument.
        NotImplementedError: the requested implementation cannot run here; the message says why.
    Numerics: everything in dt's dtype; no exponent is positive. RMS error against the recurrence in
        float64 below 1e-5 for float32, 1e-2 for bfloat16, outputs and every gradient
        (tests/pallas_kernels/test_selective_scan.py); "triton" likewise, 1e-3 for float16
        (test_selective_scan_triton.py there).
    Cost: of "xla" 9 T N D operations, 2 T N D of them exponentials. Gradients by autodiff, which
        keeps the inputs and a state every 16 chunks, and computes the rest again. "triton": see
        triton_scan.py; first order and reverse mode only, keeps the inputs.
    Source: Gu, Dao 2023, arXiv:2312.00752, algorithm 2.
    """
    sizes = _check("B T", x, dt, a, b, c)
    checks.check_compiler_shards("x", x)
    if initial_state is None:
        initial_state = jnp.zeros([sizes[axis] for axis in "BND"], dt.dtype)
    _check_state("initial_state", initial_state, sizes, x)
    segments = None
    if segment_ids is not None:
        checks.check_segment_ids(segment_ids, sizes)
        segments = number_segments(segment_ids)
    checks.check_choice("chunk_size", chunk_size, chunking.CHUNK_SIZES)
    args = (x, dt, a, b, c, initial_state, segments)
    options = {"chunk_size": chunk_size}
    return dispatch.call("selective_scan", IMPLEMENTATIONS, implementation, *args, **options)


def selective_scan_step(
    state: Float[Array, "B N D"],
    x: Float[Array, "B D"],
    dt: Float[Array, "B D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B N"],
    c: Float[Array, "B N"],
) -> tuple[Float[Array, "B D"], Float[Array, "B N D"]]:
    """One token of `selective_scan`, for decoding: (y [B, D] in x.dtype, the new state).

    Args:
        state: what `selective_scan` returned, or zeros.
        x, dt, a, b, c: of one token, as there.
    Raises:
        ValueError, TypeError: a shape or dtype is not as above; names the argument.
    """
    sizes = _check("B", x, dt, a, b, c)
    _check_state("state", state, sizes, x)
    state, y = token(state, x, dt, a, b, c)
    return y.astype(x.dtype), state


def _check(axes: str, x, dt, a, b, c) -> dict[str, int]:
    checks.check_rank("x", x, f"{axes} D")
    checks.check_rank("a", a, "N D")
    checks.check_float_dtype("x", x)
    sizes = dict(zip([*axes.split(), "D"], x.shape, strict=True)) | {"N": a.shape[0]}
    for name, y, its_axes in (("dt", dt, f"{axes} D"), ("a", a, "N D")):
        checks.check_shape(name, y, its_axes, sizes)
        checks.check_dtype(name, y, state_dtype(x.dtype))
    for name, y in (("b", b), ("c", c)):
        checks.check_shape(name, y, f"{axes} N", sizes)
        checks.check_same_dtype(name, y, "x", x)
    return sizes


def _check_state(name: str, state, sizes: dict[str, int], x) -> None:
    checks.check_shape(name, state, "B N D", sizes)
    checks.check_dtype(name, state, state_dtype(x.dtype))
