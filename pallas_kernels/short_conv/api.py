# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The public door of the short convolution: signature, checks, dispatch. No mathematics."""

from jaxtyping import Array, Float, Int

from pallas_kernels._common import checks, dispatch
from pallas_kernels.short_conv import kernel_support
from pallas_kernels.short_conv.reference import short_conv_reference
from pallas_kernels.short_conv.taps import short_conv_taps

ACTIVATIONS = ("silu", "identity")


def _kernels(*args, **options):
    # Imported when used: Mosaic GPU takes half a second to import and is not everywhere.
    from pallas_kernels.short_conv.kernel_vjp import short_conv_kernels

    return short_conv_kernels(*args, **options)


IMPLEMENTATIONS = (  # in order of preference
    dispatch.Implementation("pallas", _kernels, kernel_support.unsupported),
    dispatch.Implementation("xla", short_conv_taps, lambda *args, **kwargs: None),
    dispatch.Implementation("reference", short_conv_reference, lambda *args, **kwargs: None),
)


def short_conv(
    x: Float[Array, "B T D"],
    weight: Float[Array, "W D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    activation: str = "identity",
    norm_size: int | None = None,
    norm_eps: float = 1e-6,
    implementation: str | None = None,
) -> Float[Array, "B T D"]:
    """Depthwise causal convolution over time, then an activation, then an L2 norm of heads.

    Each channel on its own, for every row and t = 1..T:
        z_t = sum_{j < W} weight_j x_{t-j},   u_t = z_t or silu(z_t),
    and with `norm_size`, for every group g of that many neighbouring channels,
        y_t[g] = u_t[g] / sqrt(|u_t[g]|^2 + norm_eps);   else y = u.

    Args:
        x: [B, T, D], float32, bfloat16, float16 or float64 (under x64). Any T >= 0.
        weight: [W, D], W >= 1, of any of these dtypes; weight[j] multiplies the input j tokens
            back. Used in at least float32.
        segment_ids: [B, T] integers; a change of id along a row is a boundary that no tap crosses.
        activation: "silu" or "identity".
        norm_size: channels of a group; divides D. None: no norm.
        norm_eps: a Python number, not traced.
        implementation: "reference" (the definition), "xla" (any platform), "pallas" (Hopper GPU,
            bfloat16 or float16, D a multiple of 1024, W <= 4, T >= 16, norm_size 64, 128 or 256),
            or None: the fastest that takes the arguments here.
    Returns:
        y [B, T, D] in x.dtype.
    Raises:
        ValueError: a rank, an axis, activation, norm_size or implementation is not as above.
        TypeError: a dtype is not as above.
        NotImplementedError: the requested implementation cannot run here; the message says why.
    Numerics: sums in float32. "pallas" rounds to x.dtype once, at the end; "xla" also between
        convolution, activation and norm. RMS errors against the definition in float64, outputs and
        gradients: below 1e-2 for bfloat16, 1e-3 for float16 (test_short_conv.py).
    Cost: 2 W FLOP a number. "pallas" moves 2 numbers of HBM a number of x forward, 3 backward.
    Gradients: of x and weight. "pallas": reverse mode, first order; keeps only x and weight.
    Source: Yang et al. 2024, arXiv:2406.06484.
    """
    checks.check_rank("x", x, "B T D")
    sizes = dict(zip("BTD", x.shape, strict=True))
    checks.check_float_dtype("x", x)
    checks.check_rank("weight", weight, "W D")
    checks.check_shape("weight", weight, "W D", sizes | {"W": weight.shape[0]})
    checks.check_float_dtype("weight", weight)
    if weight.shape[0] < 1:
        raise ValueError(f"weight: wanted W >= 1, got shape {weight.shape}")
    checks.check_choice("activation", activation, ACTIVATIONS)
    if norm_size is not None:
        checks.check_positive_integer("norm_size", norm_size)
        if sizes["D"] % norm_size:
            raise ValueError(f"norm_size: wanted a divisor of D = {sizes['D']}, got {norm_size}")
    norm_eps = checks.check_number("norm_eps", norm_eps)
    if segment_ids is not None:
        checks.check_segment_ids(segment_ids, sizes)

    options = {"activation": activation, "norm_size": norm_size, "norm_eps": norm_eps}
    args = (x, weight, segment_ids)
    if x.size == 0:
        dispatch.choose("short_conv", IMPLEMENTATIONS, implementation, *args, **options)
        return x
    return dispatch.call("short_conv", IMPLEMENTATIONS, implementation, *args, **options)
