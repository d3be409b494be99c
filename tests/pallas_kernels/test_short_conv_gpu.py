# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short convolution's kernels on a Hopper GPU. Run with `pytest -m gpu`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import short_conv
from tests.helpers.compare import BOUNDS
from tests.pallas_kernels.test_short_conv import check, make_inputs, value_and_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        getattr(jax.devices()[0], "compute_capability", None) != "9.0",
        reason="needs a Hopper GPU",
    ),
]
# Edges of tiles (4), stretches (64) and programs (up to 1024 tokens), and inside of them.
BOUNDARIES = [1, 4, 5, 63, 64, 66, 200, 512, 513, 700]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("boundaries", [None, BOUNDARIES], ids=["one_segment", "segments"])
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        pytest.param((2, 1003, 2048, 4), {"activation": "silu", "norm_size": 128}, id="norm_128"),
        pytest.param((2, 777, 1024, 4), {"activation": "silu", "norm_size": 64}, id="norm_64"),
        pytest.param((1, 1030, 2048, 4), {"activation": "silu", "norm_size": 256}, id="norm_256"),
        pytest.param((2, 777, 2048, 4), {"activation": "silu"}, id="no_norm"),
        pytest.param((1, 16, 1024, 2), {}, id="shortest"),
        pytest.param((3, 777, 1024, 1), {"norm_size": 128}, id="one_tap"),
    ],
)
def test_values_and_gradients(sizes, options, boundaries, dtype):
    args, dy, ids = make_inputs(*sizes, dtype, boundaries)
    run = functools.partial(short_conv, segment_ids=ids, implementation="pallas", **options)
    check(run, args, dy, ids, BOUNDS[dtype], **options)


def test_large_inputs():
    """No NaN, and a sigmoid that is exactly 0 or 1."""
    (x, weight), dy, _ = make_inputs(1, 200, 1024, 4, "bfloat16")
    run = functools.partial(short_conv, activation="silu", norm_size=128, implementation="pallas")
    args = (1000 * x, weight)
    check(run, args, dy, None, BOUNDS["bfloat16"], activation="silu", norm_size=128)


@pytest.mark.parametrize("boundaries", [None, BOUNDARIES], ids=["one_segment", "segments"])
def test_repeats_bit_for_bit(boundaries):
    args, dy, ids = make_inputs(8, 2048, 2048, 4, "bfloat16", boundaries)

    @jax.jit
    def run(args, dy):
        def conv(x, weight):
            options = {"activation": "silu", "norm_size": 128, "implementation": "pallas"}
            return short_conv(x, weight, segment_ids=ids, **options)

        y, vjp = jax.vjp(conv, *args)
        return y, *vjp(dy)

    first = run(args, dy)
    for _ in range(50):
        assert all((x == y).all() for x, y in zip(first, run(args, dy), strict=True))


def test_same_bits_in_any_batch():
    (x, weight), dy, _ = make_inputs(5, 700, 1024, 4, "bfloat16")
    run = functools.partial(short_conv, activation="silu", norm_size=128, implementation="pallas")
    whole = value_and_gradients(run, (x, weight), dy)
    alone = value_and_gradients(run, (x[3:4], weight), dy[3:4])
    assert all((a[3:4] == b).all() for a, b in zip(whole[:2], alone[:2], strict=True))


def test_under_vmap():
    args, dy, _ = make_inputs(2, 100, 1024, 4, "bfloat16")
    run = functools.partial(short_conv, activation="silu", norm_size=128, implementation="pallas")

    def both(x, weight, dy):
        return value_and_gradients(run, (x, weight), dy)

    stacked = [jnp.stack([a, 2 * a]) for a in (*args, dy)]
    mapped = jax.vmap(both)(*stacked)
    for i in range(2):
        single = both(*(a[i] for a in stacked))
        assert all((a[i] == b).all() for a, b in zip(mapped, single, strict=True))


def test_chosen_by_default():
    args, _, _ = make_inputs(1, 100, 1024, 4, "bfloat16")
    chosen = short_conv(*args, activation="silu")
    assert (chosen == short_conv(*args, activation="silu", implementation="pallas")).all()
    with pytest.raises(NotImplementedError, match="bfloat16 and float16"):
        short_conv(np.float32(args[0]), args[1], implementation="pallas")
