# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Every mixer: its definition, causality, segments, decoding in any steps, 16 bits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from deltanet_jax.mixers.base import Context
from deltanet_jax.mixers.registry import MIXERS as REGISTRY
from deltanet_jax.mixers.registry import make_mixer
from deltanet_jax.sharding import MESH_AXES, path_name, weight_spec
from tests.helpers.compare import BOUNDS, assert_close
from tests.helpers.definitions import DEFINITIONS
from tests.helpers.models import MIXERS

CONTEXT = Context(
    d_model=16,
    init_std=0.5,
    out_init_std=0.5,
    norm_eps=1e-6,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
)
LENGTH = 21
# Compiled for long; what they have in common with others is tested there, and their recurrences in
# tests/pallas_kernels.
SLOW = ("kda", "delta_product", "mamba", "rwkv4", "rwkv4_channel_mix", "hyena", "hyena-heads")
every_mixer = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MIXERS]
)
# Definitions need it; everything else must be float32 all the same.
pytestmark = pytest.mark.usefixtures("x64")


class Built:
    """A mixer with jitted calls; tests that use the same shapes compile them once."""

    def __init__(self, name: str, context: Context = CONTEXT):
        self.mixer = make_mixer(MIXERS[name], context, rngs=nnx.Rngs(0))
        self.graph, self.weights = nnx.split(self.mixer)
        self.definition = DEFINITIONS[MIXERS[name].kind]
        self._run = jax.jit(
            lambda x, segment_ids, state: nnx.merge(self.graph, self.weights)(
                x, segment_ids=segment_ids, state=state
            )
        )

    def run(self, x, segment_ids=None, state=None):
        return self._run(x, segment_ids, state)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def derive(self, defined, weights, x, cotangent):
        """(y, gradients of the weights, gradient of x) of the mixer or of its definition."""

        def call(weights, x):
            mixer = nnx.merge(self.graph, weights)
            return self.definition(mixer, x) if defined else mixer(x)[0]

        y, vjp = jax.vjp(call, weights, x)
        return y, *vjp(cotangent)


build = functools.cache(Built)


def inputs(length=LENGTH):
    return jax.random.normal(jax.random.key(1), (2, length, 16), jnp.float32)


def widened(name, cotangent):
    """The mixer in float64, and float64 copies of the float32 one's weights, x and `cotangent`."""
    args = (build(name).weights, inputs(), cotangent)
    wide = dataclasses.replace(CONTEXT, dtype=jnp.float64, param_dtype=jnp.float64)
    return build(name, wide), jax.tree.map(lambda x: x.astype(jnp.float64), args)


def test_the_helpers_cover_the_registry():
    assert {config.kind for config in MIXERS.values()} == set(REGISTRY) == set(DEFINITIONS)


@every_mixer
def test_outputs_and_gradients_agree_with_the_definition_in_float64(name):
    x = inputs()
    built, args = widened(name, jnp.cos(3 * x))
    got, wanted = built.derive(False, *args), built.derive(True, *args)
    # JAX's attention takes its softmax in float32, whatever comes.
    bound = BOUNDS["float32" if MIXERS[name].kind == "attention" else "float64"]
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True
    ):
        assert_close(jax.tree_util.keystr(path), a, b, bound)
    y, _ = build(name).run(x)
    assert y.dtype == jnp.float32
    assert_close("float32", y, wanted[0], BOUNDS["float32"])


@every_mixer
def test_causality_by_gradient(name):
    built, args = widened(name, jnp.cos(3 * inputs()).at[:, 12:].set(0))
    gradient = built.derive(False, *args)[2]
    # A Fourier transform adds up what cancels.
    noise = 1e-12 if MIXERS[name].kind == "hyena" else 0
    assert (jnp.abs(gradient[:, 12:]) <= noise).all()
    assert (jnp.abs(gradient[:, :12]).max(axis=-1) > 0).all()


@every_mixer
def test_a_prompt_then_single_tokens_equal_the_parallel_form(name):
    built, x = build(name), inputs()
    wanted, none = built.run(x)
    assert none is None
    state = built.mixer.init_state(2, LENGTH)
    pieces = []
    for a, b in ((0, 5), (5, 10), (10, 15), *((t, t + 1) for t in range(15, LENGTH))):
        y, state = built.run(x[:, a:b], None, state)
        pieces.append(y)
    assert_close("y", jnp.concatenate(pieces, axis=1), wanted, 1e-5)


@every_mixer
def test_segments_equal_separate_sequences_and_carry_into_decoding(name):
    built, x = build(name), inputs()
    ids = jnp.broadcast_to(jnp.repeat(jnp.array([5, 3, 5]), LENGTH // 3), (2, LENGTH))
    separate = x.reshape(6, LENGTH // 3, 16)
    wanted = built.run(separate)[0].reshape(x.shape)
    assert_close("packed", built.run(x, ids)[0], wanted, 1e-5)
    # Read up to the middle of the last segment, then go on from the state.
    y, state = built.run(x[:, :16], ids[:, :16], built.mixer.init_state(2, LENGTH))
    rest, _ = built.run(x[:, 16:], None, state)
    assert_close("continued", jnp.concatenate([y, rest], axis=1), wanted, 1e-5)


@every_mixer
def test_bfloat16_is_near_float32(name):
    x = inputs()
    half = build(name, dataclasses.replace(CONTEXT, dtype=jnp.bfloat16))
    y, _ = half.run(x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert_close("y", y, build(name).run(x)[0], 3e-2)


@every_mixer
def test_every_weight_has_its_place_on_the_mesh(name):
    mesh = jax.sharding.AbstractMesh((1,) * len(MESH_AXES), MESH_AXES)
    for path, x in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(build(name).weights)):
        assert len(weight_spec(path_name(path), x.shape, mesh)) == x.ndim


def test_the_decays_start_where_their_papers_say():
    """Mamba2's initial values; GLA near 1; RetNet's 31/32, 63/64, ..."""
    context = dataclasses.replace(CONTEXT, init_std=0.0)
    x = jnp.zeros((1, 1, 16), jnp.float32)

    def decays(config):
        many = config.replace(num_heads=512, head_k_dim=2, head_v_dim=2, conv_size=0)
        return jax.jit(lambda: make_mixer(many, context, rngs=nnx.Rngs(0)).log_decay(x))()

    # -g = A dt with A ~ U(0, 16) and log dt ~ U(log 0.001, log 0.1): means 8 and 0.0215.
    gated = decays(MIXERS["gated_delta_net"])
    assert ((gated < 0) & (gated > -1.6)).all()
    assert -gated.mean() == pytest.approx(8 * 0.0215, rel=0.2)
    gla = decays(MIXERS["gla"].replace(decay_temperature=16.0))
    assert jnp.exp(gla) == pytest.approx(0.5 ** (1 / 16))
    retnet = build("retnet").mixer.log_decay()
    assert jnp.exp(retnet) == pytest.approx(jnp.array([31 / 32, 63 / 64]))


def test_negative_eigenvalues_double_beta():
    config = MIXERS["delta_net"].replace(allow_neg_eigval=True)
    doubled = make_mixer(config, CONTEXT, rngs=nnx.Rngs(0)).beta(inputs())
    assert (doubled == 2 * build("delta_net").mixer.beta(inputs())).all()
