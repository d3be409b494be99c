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
from tests.helpers import decoding
from tests.helpers.compare import BOUNDS, assert_close
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
