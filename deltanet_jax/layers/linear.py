# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Bias-free linear maps: the only kind the models use."""

import jax
from flax import nnx


def linear(
    in_features: int,
    out_features: int,
    *,
    init_std: float,
    dtype: jax.typing.DTypeLike,
    param_dtype: jax.typing.DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """x -> x W with W ~ N(0, init_std^2), kept in `param_dtype`, multiplied in `dtype`."""
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=False,
        kernel_init=nnx.initializers.normal(init_std),
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
