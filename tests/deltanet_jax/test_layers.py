# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Norms, projections and the short convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deltanet_jax.layers import embedding
from deltanet_jax.layers.bottleneck import Bottleneck
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
@pytest.mark.parametrize("where", ["cpu", "one-device", "mesh"])
def test_lookup_and_its_derivatives(monkeypatch, where):
    """As on GPUs, where gradients are products; tokens that repeat, one that never stands."""
    lookup = embedding.lookup if where != "mesh" else embedding._lookup_over_mesh
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


def sums_by_scatter(rows, tokens, size):
    sums = np.zeros((size, rows.shape[-1]))
    np.add.at(sums, np.asarray(tokens), np.asarray(rows, np.float64))
    return sums


@pytest.mark.parametrize("count", [5, 256, 1000])
def test_sums_of_rows(count):
    """One id at most places, over whole chunks; ids that begin in one chunk and end in another."""
    keys = jax.random.split(jax.random.key(count), 3)
    tokens = jax.random.randint(keys[0], (count,), 0, 40)
    tokens = jnp.where(jax.random.uniform(keys[1], (count,)) < 0.6, 17, tokens)
    rows = jax.random.normal(keys[2], (count, 3))
    wanted = sums_by_scatter(rows, tokens, 41)
    got = jax.jit(embedding.sums_of_rows, static_argnums=2)(rows, tokens, 41)
    assert_close("sums", got, wanted, 1e-6)
    if count > embedding.CHUNK:  # without what earlier chunks carry, the comparison fails
        last_alone = wanted.copy()
        last_alone[17] = sums_by_scatter(rows[:256], tokens[:256], 41)[17]
        with pytest.raises(AssertionError):
            assert_close("sums", last_alone, wanted, 1e-2)
    half = embedding.sums_of_rows(rows.astype(jnp.bfloat16), tokens, 41)
    assert half.dtype == jnp.bfloat16
    assert_close("sums", half, wanted, 1e-2)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_lookup_side_by_side(monkeypatch, axes):
    """Under vmap, as runs of a sweep are: tables, tokens or both."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    tables = jax.random.normal(jax.random.key(0), (3, 7, 4))
    tokens = jax.random.randint(jax.random.key(1), (3, 2, 5), 0, 7)

    def gradient(take):
        return jax.grad(lambda table, tokens: jnp.sum(take(table, tokens) ** 3))

    arguments = [x if axis == 0 else x[0] for x, axis in zip((tables, tokens), axes, strict=True)]
    ours, wanted = (
        jax.jit(jax.vmap(gradient(take), axes))(*arguments)
        for take in (embedding.lookup, lambda table, tokens: table[tokens])
    )
    assert_close("gradient", ours, wanted, 1e-6)
