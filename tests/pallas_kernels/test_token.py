# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""All layers of one token in one launch, interpreted, against the definitions in float64.

The interpreter runs programs one after the other, so several of them have a launch a phase, and
the barrier is run by one program. Skipped where Triton is not installed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels._common import triton_device
from tests.helpers import decoding
from tests.helpers.compare import BOUNDS, assert_close, rms_ratio

needs_triton = pytest.mark.skipif(
    not triton_device.installed(), reason="needs jax-triton and Triton"
)
LAYERS, F, W = 2, 48, 4


@pytest.fixture(scope="module")
def module():
    from tests.helpers import triton_interpreter

    with triton_interpreter.interpreted("pallas_kernels.decoding.triton_token_call") as module:
        yield module


def inputs(module, heads, key_size, dtype):
    width = heads * key_size
    keys = iter(jax.random.split(jax.random.key(0), 11))

    def normal(*shape, at=0.0, size=1.0, dtype=dtype):
        x = at + size * jax.random.normal(next(keys), (LAYERS, *shape), jnp.float32)
        return x.astype(dtype)

    weights = module.Weights(
        first=normal(3 * width + heads, width, size=0.2),
        out=normal(width, width, size=0.2),
        gate_up=normal(2 * F, width, size=0.2),
        down=normal(width, F, size=0.2),
        mixer_scale=normal(width, at=1.0),
        head_scale=normal(key_size, at=1.0),
        mlp_scale=normal(width, at=1.0),
        taps=normal(W, 3 * width),
    )
    carried = module.Carried(
        x=normal(width)[0],
        tails=normal(W - 1, 3 * width),
        state=normal(heads, key_size, key_size, dtype=jnp.float32),
        scratch=module.scratch(weights),
    )
    return weights, carried


def defined(weights, carried, wrong=None):
    """(x, tails, state) by the operators' definitions, layer by layer; `wrong` is a step's."""
    weights, carried = jax.tree.map(lambda a: np.asarray(a, np.float64), (weights, carried))
    heads, key_size = carried.state.shape[1:3]
    width = heads * key_size
    options = {"columns": (0, width, 2 * width, 3 * width), "beta_scale": 2.0}
    options["scale"] = key_size**-0.5
    x, tails, states = carried.x[None], [], []
    for layer in range(LAYERS):
        w = jax.tree.map(lambda a, i=layer: a[i], weights)
        z = decoding.product(x, w.first, gated=False, norm_scale=w.mixer_scale)
        parts = (np.split(a[layer], 3, axis=-1) for a in (carried.tails, weights.taps))
        old, taps = next(parts), next(parts)
        sequence = decoding.Sequence(
            z[None], tuple(t[None] for t in old), tuple(taps), w.head_scale,
            carried.state[layer][None], options,
        )  # fmt: skip
        o, state = decoding.steps(sequence, wrong=wrong)
        x = decoding.product(o[0], w.out, gated=False, residual=x)
        h = decoding.product(x, w.gate_up, gated=True, norm_scale=w.mlp_scale)
        x = decoding.product(h, w.down, gated=False, residual=x)
        tails.append(np.concatenate([carried.tails[layer][1:], z[:, : 3 * width]]))
        states.append(state[0])
    return x[0], np.stack(tails), np.stack(states)


def phase_by_phase(module, weights, carried, **options):
    for layer in range(LAYERS):
        for phase in range(5):
            carried = module.token_triton(
                weights,
                carried,
                layers=jnp.array([layer, layer + 1], jnp.int32),
                phases=1 << phase,
                barrier=False,
                **options,
            )
    return carried


@needs_triton
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_programs_phase_by_phase(module, dtype):
    weights, carried = inputs(module, 2, 32, dtype)
    got = phase_by_phase(module, weights, carried, programs=3, depth=2, beta_scale=2.0)
    bound = BOUNDS[dtype] * (1 if dtype == "float32" else 3)  # what passes between is rounded
    for name, x, y in zip(("x", "tails", "state"), got, defined(weights, carried), strict=False):
        assert_close(name, x, y, bound)


@needs_triton
@pytest.mark.parametrize("depth", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_one_program_with_barriers(module, depth):
    weights, carried = inputs(module, 1, 32, "float32")
    options = {"programs": 1, "beta_scale": 2.0}
    got = module.token_triton(weights, carried, depth=depth, **options)
    for name, x, y in zip(("x", "tails", "state"), got, defined(weights, carried), strict=False):
        assert_close(name, x, y, BOUNDS["float32"])
    assert int(got.scratch[-1][0]) == 0
    again = phase_by_phase(module, weights, carried, depth=depth, **options)
    assert all((x == y).all() for x, y in zip(got[:3], again[:3], strict=True))


@needs_triton
@pytest.mark.parametrize("name", decoding.WRONG_STEPS)
def test_a_wrong_layer_is_told_apart(module, name):
    weights, carried = inputs(module, 2, 32, "float32")
    wrong, right = (defined(weights, carried, wrong=w)[0] for w in (name, None))
    assert rms_ratio(wrong, right) > 1e-2
