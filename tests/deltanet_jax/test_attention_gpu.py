# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Softmax attention by cuDNN against XLA's in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.base import Context
from deltanet_jax.mixers.registry import make_mixer
from tests.helpers.compare import BOUNDS, assert_close

pytestmark = pytest.mark.gpu


def context(dtype) -> Context:
    return Context(
        d_model=64,
        init_std=0.2,
        out_init_std=0.2,
        norm_eps=1e-6,
        dtype=dtype,
        param_dtype=jnp.float32,
    )


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("length", [1, 127, 128])
def test_values_and_gradients_at_odd_lengths_too(length, window):
    """Rows of a sweep, which vmap puts before the batch, included."""
    config = AttentionConfig(num_heads=2, window=window)
    x = jax.random.normal(jax.random.key(0), (3, 2, length, 64), jnp.bfloat16)

    def value_and_gradient(dtype, x):
        mixer = make_mixer(config, context(dtype), rngs=nnx.Rngs(0))

        def loss(x):
            y = jax.vmap(lambda x: mixer(x)[0])(x).astype(jnp.float32)
            return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        (_, y), grad = jax.value_and_grad(loss, has_aux=True)(x)
        return y, grad

    got = jax.jit(lambda x: value_and_gradient(jnp.bfloat16, x))(x)
    with jax.default_matmul_precision("highest"):
        wanted = jax.jit(lambda x: value_and_gradient(jnp.float32, x))(x.astype(jnp.float32))
    for name, one, other in zip(("y", "dx"), got, wanted, strict=True):
        assert_close(name, np.asarray(one), np.asarray(other), BOUNDS["bfloat16"])
