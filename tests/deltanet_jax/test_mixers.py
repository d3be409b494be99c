# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Every mixer: causality, segments, decoding in any steps; and against definitions of their own."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from deltanet_jax.mixers.base import Context
from deltanet_jax.mixers.registry import MIXERS as REGISTRY
from deltanet_jax.mixers.registry import make_mixer
from pallas_kernels import delta_rule
from tests.helpers.compare import assert_close
from tests.helpers.models import MIXERS

CONTEXT = Context(
    d_model=16,
    init_std=0.5,
    out_init_std=0.5,
    norm_eps=1e-6,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
)
every_mixer = pytest.mark.parametrize("name", MIXERS)


def build(name):
    mixer = make_mixer(MIXERS[name], CONTEXT, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(mixer)

    @jax.jit
    def run(x, segment_ids=None, state=None):
        return nnx.merge(graph, weights)(x, segment_ids=segment_ids, state=state)

    return mixer, run


def inputs(length=37):
    return jax.random.normal(jax.random.key(1), (2, length, 16))


def test_the_helpers_cover_the_registry():
    assert {config.kind for config in MIXERS.values()} == set(REGISTRY)


@every_mixer
def test_causality_by_gradient(name):
    _, run = build(name)
    x = inputs()
    grad = jax.grad(lambda x: jnp.sum(jnp.sin(run(x)[0][:, :20])))(x)
    assert (grad[:, 20:] == 0).all()
    assert (jnp.abs(grad[:, :20]).max(axis=-1) > 0).all()


@every_mixer
def test_a_prompt_then_single_tokens_equal_the_parallel_form(name):
    mixer, run = build(name)
    x = inputs(21)
    wanted, none = run(x)
    assert none is None
    state = mixer.init_state(2, 21)
    pieces = []
    for a, b in ((0, 9), (9, 14), *((t, t + 1) for t in range(14, 21))):
        y, state = run(x[:, a:b], None, state)
        pieces.append(y)
    assert_close("y", jnp.concatenate(pieces, axis=1), wanted, 1e-5)


@every_mixer
def test_segments_equal_separate_sequences_and_carry_into_decoding(name):
    mixer, run = build(name)
    x = inputs(22)
    ids = jnp.broadcast_to(
        jnp.repeat(jnp.array([5, 3, 5]), jnp.array([6, 7, 9]), total_repeat_length=22), (2, 22)
    )
    wanted = jnp.concatenate([run(x[:, a:b])[0] for a, b in ((0, 6), (6, 13), (13, 22))], axis=1)
    assert_close("packed", run(x, ids)[0], wanted, 1e-5)
    # Read up to the middle of the last segment, then go on from the state.
    y, state = run(x[:, :17], ids[:, :17], mixer.init_state(2, 22))
    rest, _ = run(x[:, 17:], None, state)
    assert_close("continued", jnp.concatenate([y, rest], axis=1), wanted, 1e-5)


@every_mixer
def test_bfloat16_is_near_float32(name):
    _, run = build(name)
    half = Context(16, 0.5, 0.5, 1e-6, jnp.bfloat16, jnp.float32)
    mixer = make_mixer(MIXERS[name], half, rngs=nnx.Rngs(0))
    x = inputs()
    y, _ = mixer(x.astype(jnp.bfloat16), segment_ids=None, state=None)
    assert y.dtype == jnp.bfloat16
    assert_close("y", y, run(x)[0], 3e-2)


def test_delta_net_is_what_the_paper_says():
    """Section 3.4 written out: projections, convolution by hand, SiLU, L2 norm, rule, norm."""
    mixer, run = build("delta_net")
    x = inputs()

    def head(name):
        projection = getattr(mixer.qkv, name)
        y = x @ projection.proj.kernel[...]
        weight = projection.conv.weight[...]
        padded = jnp.pad(y, ((0, 0), (3, 0), (0, 0)))
        y = sum(weight[j][None, None] * padded[:, 3 - j : 3 - j + 37] for j in range(4))
        return jax.nn.silu(y).reshape(2, 37, 2, 8)

    def unit(y):
        return y / jnp.sqrt(jnp.sum(y**2, axis=-1, keepdims=True) + 1e-6)

    beta = jax.nn.sigmoid(x @ mixer.beta_proj.kernel[...])
    o = delta_rule(
        unit(head("q_heads")),
        unit(head("k_heads")),
        head("v_heads"),
        beta,
        implementation="reference",
    ).output
    o = o / jnp.sqrt(jnp.mean(o**2, axis=-1, keepdims=True) + 1e-6)
    o = o * mixer.out_norm.scale[...][None, None, None]
    wanted = o.reshape(2, 37, 16) @ mixer.out_proj.kernel[...]
    assert_close("y", run(x)[0], wanted, 1e-5)


def test_negative_eigenvalues_double_beta():
    config = MIXERS["delta_net"]
    plain = make_mixer(config, CONTEXT, rngs=nnx.Rngs(0)).project(inputs())[3]
    doubled = make_mixer(config.replace(allow_neg_eigval=True), CONTEXT, rngs=nnx.Rngs(0)).project(
        inputs()
    )[3]
    assert (doubled == 2 * plain).all()


def test_attention_is_softmax_over_the_window():
    mixer, run = build("attention-window")
    x = inputs()
    q, k, v = (
        (x @ p.kernel[...]).reshape(2, 37, 2, 8) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj)
    )

    def rotate(y):
        turns = jnp.arange(37)[:, None] * 10_000.0 ** (-jnp.arange(4) / 4)[None]
        rotor = jnp.exp(1j * turns)[None, :, None]
        z = (y[..., :4] + 1j * y[..., 4:]) * rotor
        return jnp.concatenate([z.real, z.imag], axis=-1)

    scores = jnp.einsum("bihk,bjhk->bhij", rotate(q), rotate(k)) / 8**0.5
    distance = jnp.arange(37)[:, None] - jnp.arange(37)[None]
    scores = jnp.where(((distance >= 0) & (distance < 5))[None, None], scores, -jnp.inf)
    o = jnp.einsum("bhij,bjhv->bihv", jax.nn.softmax(scores, axis=-1), v)
    assert_close("y", run(x)[0], o.reshape(2, 37, 16) @ mixer.out_proj.kernel[...], 1e-5)


def test_linear_attention_is_the_normalised_sum():
    mixer, run = build("linear_attention")
    x = inputs()
    q, k, v = (
        (x @ p.proj.kernel[...]).reshape(2, 37, 2, 8)
        for p in (mixer.qkv.q_heads, mixer.qkv.k_heads, mixer.qkv.v_heads)
    )
    scores = jnp.tril(jnp.einsum("bihk,bjhk->bhij", jax.nn.elu(q) + 1, jax.nn.elu(k) + 1))
    o = jnp.einsum("bhij,bjhv->bihv", scores / scores.sum(-1, keepdims=True), v)
    assert_close("y", run(x)[0], o.reshape(2, 37, 16) @ mixer.out_proj.kernel[...], 1e-5)
