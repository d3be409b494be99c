# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of one token on a GPU, against the definitions in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deltanet_jax.decoder import lay_out, layer_states
from deltanet_jax.generate import stream
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.sampling import Sampling
from pallas_kernels import delta_net_step, row_product
from pallas_kernels._common import triton_device
from pallas_kernels.decoding import delta_net_layers as operator
from pallas_kernels.decoding import layers_plan
from tests.helpers import decoding
from tests.helpers.compare import BOUNDS, assert_close, equal_bits, rms_ratio
from tests.helpers.delta_net_layers import defined, layers
from tests.helpers.models import random_tokens, small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        triton_device.no_device() is not None, reason="needs an NVIDIA GPU and jax-triton"
    ),
]


@pytest.mark.parametrize(
    ("columns", "outputs", "dtype", "options"),
    [
        (2048, 6160, "bfloat16", {"norm": True}),
        (2048, 11264, "bfloat16", {"norm": True, "gated": True}),
        (5632, 2048, "bfloat16", {"residual": True}),
        (2048, 2048, "float16", {"norm": True, "residual": True}),
        (1000, 999, "float32", {"norm": True, "residual": True}),
    ],
)
def test_product(columns, outputs, dtype, options):
    args, options = decoding.product_arguments(1, columns, outputs, dtype, **options)
    run = functools.partial(row_product, implementation="triton", **options)
    wanted = decoding.product(*args, **options)
    assert_close("product", run(*args), wanted, BOUNDS[dtype])


@pytest.mark.parametrize(
    ("sizes", "width", "dtype"),
    [
        ((1, 16, 128, 128), 4, "bfloat16"),
        ((128, 4, 128, 128), 4, "bfloat16"),
        ((3, 2, 64, 256), 3, "float16"),
        ((2, 3, 32, 64), 2, "float32"),
        ((1, 2, 128, 128), 4, "float32"),
    ],
)
def test_steps(sizes, width, dtype):
    sequence = decoding.step_sequence(9, *sizes, width, dtype)
    run = functools.partial(delta_net_step, implementation="triton", **sequence.options)
    decoding.check_steps(jax.jit(run), sequence, BOUNDS[dtype])


def test_a_state_that_is_used_again_is_kept():
    """It is written over only where nobody asks for it afterwards."""
    sequence = decoding.step_sequence(1, 2, 2, 64, 64, 4, "float32")
    before = jax.tree.map(np.array, sequence.arguments(0))
    step = functools.partial(delta_net_step, implementation="triton", **sequence.options)
    once, twice = jax.jit(lambda *args: (step(*args), step(*args)))(*sequence.arguments(0))
    for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        assert (np.asarray(x) == np.asarray(y)).all()
    after = jax.tree.map(np.array, sequence.arguments(0))
    assert all(
        (x == y).all() for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )


def wide_model():
    """Heads of a size that the kernels take."""
    mixer = DeltaNetConfig(num_heads=2, chunk_size=16, implementation="xla")
    return small_model(mixer, d_model=64, num_layers=3, init_std=0.1)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_decoder_of_kernels_is_its_model(rows):
    """Logits of 40 tokens, one by one, in float32, against the parallel form."""
    with jax.default_matmul_precision("highest"):
        model = wide_model()
        tokens = random_tokens(rows, 45)

        @nnx.jit
        def one_by_one(model, decoder, tokens):
            state = model.init_state(tokens.shape[0], 45)
            _, state = model.features(tokens[:, :5], state=state)
            state = layer_states(state, model.config.num_layers)

            def token(state, one):
                features, state = decoder.features(one[:, None], state=state)
                return state, decoder.logits(features)[:, 0]

            _, logits = jax.lax.scan(token, state, tokens[:, 5:].T)
            return jnp.moveaxis(logits, 0, 1)

        got = one_by_one(model, lay_out(model), tokens)
        assert_close("logits", got, nnx.jit(lambda m, t: m(t)[0])(model, tokens)[:, 5:], 1e-5)


def test_generation_with_kernels_equals_generation_without():
    with jax.default_matmul_precision("highest"):
        model, options = wide_model(), {"key": jax.random.key(0)}
        prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3], [7]]
        ours, wanted = (
            list(stream(model, prompts, 40, sampling=Sampling(0.0), decoder=d, **options))
            for d in (lay_out(model), None)
        )
    assert (np.concatenate(ours, axis=1) == np.concatenate(wanted, axis=1)).all()


needs_hopper = pytest.mark.skipif(
    triton_device.capability() != 90, reason="needs a GPU of compute capability 9.0"
)


@needs_hopper
@pytest.mark.parametrize(
    ("heads", "hidden", "dtype"), [(16, 5632, "bfloat16"), (8, 2816, "float16")]
)
def test_all_layers_at_once(heads, hidden, dtype):
    """Against the definition; and the same bits however programs come to meet."""
    weights, state, x = layers(heads, hidden, dtype)
    how = layers_plan.plan(heads, hidden, operator.programs())
    packed = jax.jit(functools.partial(operator.pack_layers, how=how))(weights)
    token = jax.jit(functools.partial(operator.delta_net_layers, how=how, beta_scale=2.0))

    def tokens(state):
        outputs = []
        for one in x:
            y, state = token(one[None], packed, state)
            outputs.append(y[0])
        return jnp.stack(outputs), *state

    got = tokens(state)
    for name, ours, wanted in zip(
        ("x", "tails", "memory"), got, defined(weights, state, x), strict=True
    ):
        assert_close(name, ours, wanted, BOUNDS[dtype])
    assert all(equal_bits(tokens(state), got) for _ in range(20))


def heads_of_128(dtype):
    mixer = DeltaNetConfig(num_heads=8, chunk_size=16, implementation="xla")
    return small_model(mixer, d_model=1024, num_layers=2, init_std=0.03, compute_dtype=dtype)


@needs_hopper
def test_a_decoder_at_once_is_as_near_to_float32_as_one_layer_by_layer():
    """Logits of 40 tokens, one by one, in bfloat16, against the parallel form in float32."""
    tokens = random_tokens(1, 45)
    with jax.default_matmul_precision("highest"):
        wanted = nnx.jit(lambda m, t: m(t)[0])(heads_of_128("float32"), tokens)[:, 5:]
    model = heads_of_128("bfloat16")

    @nnx.jit
    def one_by_one(model, decoder, tokens):
        _, state = model.features(tokens[:, :5], state=model.init_state(1, 45))

        def token(state, one):
            features, state = decoder.features(one[:, None], state=state)
            return state, decoder.logits(features)[:, 0]

        state = decoder.take_state(state, model.config.num_layers)
        _, logits = jax.lax.scan(token, state, tokens[:, 5:].T)
        return jnp.moveaxis(logits, 0, 1)

    at_once, by_layer = (
        rms_ratio(
            one_by_one(model, lay_out(model, batch_size=1, implementation=name), tokens), wanted
        )
        for name in ("at_once", "layer_by_layer")
    )
    assert at_once <= max(1.1 * by_layer, BOUNDS["bfloat16"]), (at_once, by_layer)


@needs_hopper
def test_generation_takes_the_kernel_for_one_row():
    """The decoder that is chosen for it, through `stream`; the same tokens every time."""
    model = heads_of_128("bfloat16")
    decoder = lay_out(model, batch_size=1)
    assert decoder.implementation == "at_once"
    options = {"key": jax.random.key(0), "sampling": Sampling(0.0), "decoder": decoder, "chunk": 8}
    once, twice = (list(stream(model, [[3, 1, 4]], 17, **options)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(once, twice, strict=True))
    assert [chunk.shape[1] for chunk in once] == [1, 8, 8]
