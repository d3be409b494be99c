# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Norms, projections and the short convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deltanet_jax.layers.bottleneck import Bottleneck
from deltanet_jax.layers.embedding import lookup
from deltanet_jax.layers.mlp import SwiGLU, default_hidden_size
from deltanet_jax.layers.norm import l1_norm, l2_norm
from deltanet_jax.layers.short_conv import ShortConv
from tests.helpers.compare import assert_close


def make_conv(width=4):
    kinds = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    return ShortConv(6, width, **kinds, rngs=nnx.Rngs(0))


def test_convolution_equals_numpys():
    conv = make_conv()
    x = jax.random.normal(jax.random.key(0), (2, 20, 6))
    y, state = conv(x)
    weight = np.asarray(conv.weight[...])
    wanted = np.stack(
        [
            np.stack([np.convolve(x[b, :, d], weight[:, d])[:20] for d in range(6)], axis=-1)
            for b in range(2)
        ]
    )
    assert_close("y", y, wanted, 1e-6)
    assert (state == x[:, -3:]).all()


def test_convolution_stops_at_segments_and_its_state_forgets_them():
    conv = make_conv()
    x = jax.random.normal(jax.random.key(0), (1, 12, 6))
    ids = jnp.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]])
    y, state = conv(x, segment_ids=ids)
    wanted = jnp.concatenate([conv(x[:, a:b])[0] for a, b in ((0, 5), (5, 10), (10, 12))], axis=1)
    assert_close("y", y, wanted, 1e-6)
    assert (state[:, :1] == 0).all()
    assert (state[:, 1:] == x[:, 10:]).all()


def test_convolution_of_fewer_tokens_than_its_width():
    conv = make_conv()
    x = jax.random.normal(jax.random.key(0), (1, 5, 6))
    wanted, _ = conv(x)
    state, pieces = conv.init_state(1), []
    for a, b in ((0, 1), (1, 3), (3, 5)):
        y, state = conv(x[:, a:b], state=state)
        pieces.append(y)
    assert_close("y", jnp.concatenate(pieces, axis=1), wanted, 1e-6)


def test_norms():
    x = jax.random.normal(jax.random.key(0), (3, 8)) * 5
    assert_close("l2", l2_norm(x), x / jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    assert_close("l1", l1_norm(x), x / jnp.abs(x).sum(axis=-1, keepdims=True), 1e-6)
    assert (l2_norm(0 * x) == 0).all()
    assert jnp.isfinite(jax.jacobian(l2_norm)(jnp.zeros(3))).all()
    assert l2_norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_swiglu():
    kinds = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    mlp = SwiGLU(4, 10, init_std=1.0, out_init_std=1.0, **kinds, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 3, 4))
    gate, up, down = (p.kernel[...] for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    assert_close("y", mlp(x), (jax.nn.silu(x @ gate) * (x @ up)) @ down, 1e-6)


def test_default_hidden_sizes_are_the_papers():
    assert [default_hidden_size(d) for d in (1024, 2048)] == [2816, 5632]


def test_bottleneck_sees_the_last_vector_and_the_position_alone():
    kinds = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    layer = Bottleneck(6, init_std=1.0, norm_eps=1e-5, **kinds, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    positions = np.zeros((5, 6))
    for p in range(5):
        for i in range(3):
            positions[p, i] = np.sin(p / 10_000 ** (i / 3))
            positions[p, 3 + i] = np.cos(p / 10_000 ** (i / 3))
    y = np.asarray(x)[:, -1:] + positions
    for proj in (layer.first_proj, layer.second_proj):
        y = y / np.sqrt((y * y).mean(axis=-1, keepdims=True) + 1e-5) @ proj.kernel[...]
        y = jax.nn.gelu(y)
    assert_close("y", layer(x), y, 1e-6)
    assert (layer(x.at[:, :-1].set(0)) == layer(x)).all()
    with pytest.raises(ValueError, match="^d_model: wanted an even number with bottleneck, got 5"):
        Bottleneck(5, init_std=1.0, norm_eps=1e-5, **kinds, rngs=nnx.Rngs(0))


# Not called "gpu": tests of that name are skipped where there is none.
@pytest.mark.parametrize("where", ["cpu", "as-on-gpus"])
def test_lookup_and_its_derivatives(monkeypatch, where):
    """As on a GPU, where the gradient is a product; tokens that repeat, one that never stands."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu" if where == "cpu" else "gpu")
    table, dtable = (jax.random.normal(jax.random.key(i), (7, 5)) for i in range(2))
    tokens = jnp.array([[0, 3, 3], [6, 0, 3]])
    dy = jax.random.normal(jax.random.key(2), (2, 3, 5))
    y, vjp = jax.vjp(lambda table: lookup(table, tokens), table)
    wanted = np.zeros((7, 5))
    np.add.at(wanted, np.asarray(tokens), np.asarray(dy, np.float64))
    assert (y == table[tokens]).all()
    assert_close("gradient", vjp(dy)[0], wanted, 1e-6)
    _, tangent = jax.jvp(lambda table: lookup(table, tokens), (table,), (dtable,))
    assert_close("tangent", tangent, dtable[tokens], 1e-6)
