# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Weights and inputs of layers of a DeltaNet with SwiGLU, and their definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.decoding import delta_net_layers as operator
from pallas_kernels.decoding import layers_plan
from tests.helpers import decoding

W, TOKENS = 4, 2


@functools.cache
def layers(heads, hidden, dtype, num_layers=2):
    """Weights of every layer, a state and inputs [TOKENS, D]."""
    width = heads * layers_plan.HEAD
    generator = np.random.default_rng(0)  # NumPy's: on a GPU JAX compiles for every shape

    def normal(*shape, at=0.0, size=1.0, dtype=dtype):
        x = at + size * generator.standard_normal(shape, np.float32)
        return jnp.asarray(x.astype(jnp.dtype(dtype)))

    weights = [
        operator.LayerWeights(
            layers_plan.Weights(
                normal(3 * width + heads, width, size=width**-0.5),
                normal(width, width, size=width**-0.5),
                normal(2 * hidden, width, size=width**-0.5),
                normal(width, hidden, size=hidden**-0.5),
            ),
            normal(width, at=1.0, size=0.3),
            normal(layers_plan.HEAD, at=1.0, size=0.3),
            normal(width, at=1.0, size=0.3),
            normal(W, 3 * width),
        )
        for _ in range(num_layers)
    ]
    state = operator.LayersState(
        normal(num_layers, W - 1, 3 * width),
        normal(num_layers, heads, layers_plan.HEAD, layers_plan.HEAD, dtype=jnp.float32),
    )
    return weights, state, normal(TOKENS, width)


def defined(weights, state, x, wrong=None):
    """(x [T, D], tails, memory) by the operators' definitions; `wrong` is a step's."""
    weights, state, x = jax.tree.map(lambda a: np.asarray(a, np.float64), (weights, state, x))
    heads, width = state.memory.shape[1], x.shape[1]
    options = {"columns": (0, width, 2 * width, 3 * width), "beta_scale": 2.0}
    options["scale"] = layers_plan.HEAD**-0.5
    all_tails, memories = [], []
    for layer, tails, memory in zip(weights, *state, strict=True):
        matrices = layer.matrices
        z = decoding.product(x, matrices.first, norm_scale=layer.mixer_scale)
        parts = (tuple(np.split(a, 3, axis=-1)) for a in (tails[None], layer.taps))
        sequence = decoding.Sequence(
            z[:, None], *parts, layer.head_scale, memory[None], options
        )  # fmt: skip
        o, new = decoding.steps(sequence, wrong=wrong)
        x = decoding.product(o[:, 0], matrices.out, residual=x)
        h = decoding.product(x, matrices.gate_up, gated=True, norm_scale=layer.mlp_scale)
        x = decoding.product(h, matrices.down, residual=x)
        all_tails.append(np.concatenate([tails, z[:, : 3 * width]])[-tails.shape[0] :])
        memories.append(new[0])
    assert heads == memories[0].shape[0]
    return x, np.stack(all_tails), np.stack(memories)
