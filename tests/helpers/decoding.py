# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Definitions and inputs of the operators of one token (pallas_kernels/decoding), in float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.compare import assert_close

EPS = 1e-6


def _silu(x):
    return x / (1 + np.exp(-x))


def product_arguments(rows, columns, outputs, dtype, norm=False, gated=False, residual=False):
    """((x, weight), options) of `row_product`."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = 3 * jax.random.normal(keys[0], (rows, columns), dtype)
    weight = jax.random.normal(keys[1], (outputs, columns), dtype)
    options = {"gated": gated}
    if norm:
        options["norm_scale"] = 1 + jax.random.normal(keys[2], (columns,), dtype)
    if residual:
        shape = (rows, outputs // 2 if gated else outputs)
        options["residual"] = 5 * jax.random.normal(keys[3], shape, dtype)
    return (x, weight), options


WRONG_PRODUCTS = ("scale left out", "gate and map exchanged", "residual normalised", "mean as sum")


def product(x, weight, *, gated=False, norm_scale=None, residual=None, wrong=None):
    """`row_product`'s definition; `wrong` names a mistake."""
    x, weight = (np.asarray(a, np.float64) for a in (x, weight))
    if norm_scale is not None:
        squares = x**2
        size = (squares.sum if wrong == "mean as sum" else squares.mean)(axis=1, keepdims=True)
        scale = 1.0 if wrong == "scale left out" else np.asarray(norm_scale, np.float64)[None]
        x = x / np.sqrt(size + EPS) * scale
    y = x @ weight.T
    if gated:
        half = y.shape[1] // 2
        gate, up = y[:, :half], y[:, half:]
        y = _silu(up) * gate if wrong == "gate and map exchanged" else _silu(gate) * up
    if residual is not None:
        residual = np.asarray(residual, np.float64)
        if wrong == "residual normalised":
            residual = residual / np.sqrt((residual**2).mean(axis=1, keepdims=True))
        y = y + residual
    return y


class Sequence(NamedTuple):
    """Projections of several tokens and what else `delta_net_step` takes.

    Attributes:
        projected: [T, B, P].
        tails, taps, norm_scale, state: before the first token.
        options: the operator's keyword arguments.
    """

    projected: jax.Array
    tails: tuple
    taps: tuple
    norm_scale: jax.Array
    state: jax.Array
    options: dict

    def arguments(self, token):
        return (self.projected[token], self.tails, self.taps, self.norm_scale, self.state)


def step_sequence(length, batch, heads, key_size, value_size, width, dtype) -> Sequence:
    """Columns of beta, v, q, k in this order, and some that nobody reads."""
    keys = jax.random.split(jax.random.key(1), 9)
    sizes = (heads * key_size, heads * key_size, heads * value_size)
    starts, start = {}, 3
    for name, size in zip("bvqk", (heads, sizes[2], sizes[0], sizes[1]), strict=True):
        starts[name], start = start, start + size + 2
    projected = jax.random.normal(keys[0], (length, batch, start), dtype)
    tails = [
        jax.random.normal(k, (batch, width - 1, s), dtype)
        for k, s in zip(keys[1:4], sizes, strict=True)
    ]
    taps = [jax.random.normal(k, (width, s), dtype) for k, s in zip(keys[4:7], sizes, strict=True)]
    norm_scale = 1 + jax.random.normal(keys[7], (value_size,), dtype)
    state = jax.random.normal(keys[8], (batch, heads, key_size, value_size), jnp.float32)
    options = {
        "columns": tuple(starts[name] for name in "qkvb"),
        "beta_scale": 2.0,
        "scale": 0.3,
    }
    return Sequence(projected, tuple(tails), tuple(taps), norm_scale, state, options)


WRONG_STEPS = (
    "taps reversed",
    "tail left out",
    "no activation",
    "keys not normalised",
    "beta not scaled",
    "write before the correction",
    "read before the write",
    "norm of all heads",
)


def steps(sequence: Sequence, wrong=None):
    """(outputs [T, B, H V], final state): convolution and recurrence over all tokens, eq. 1.

    `wrong` names a mistake.
    """
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), sequence[:5])
    projected, tails, taps, norm_scale, state = wide
    length, batch = projected.shape[:2]
    _, heads, key_size, value_size = state.shape
    starts, state = sequence.options["columns"], state.copy()

    def channels(i, size):
        new = np.moveaxis(projected[:, :, starts[i] : starts[i] + size], 0, 1)
        old = np.zeros_like(tails[i]) if wrong == "tail left out" else tails[i]
        inputs = np.concatenate([old, new], axis=1)
        weight = taps[i][::-1] if wrong == "taps reversed" else taps[i]
        past = len(weight) - 1
        y = sum(w * inputs[:, past - j : past - j + length] for j, w in enumerate(weight))
        y = y if wrong == "no activation" else _silu(y)
        return y.reshape(batch, length, heads, -1)

    q, k, v = (channels(i, heads * n) for i, n in enumerate((key_size, key_size, value_size)))
    q = q / np.sqrt((q**2).sum(axis=-1, keepdims=True) + EPS)
    if wrong != "keys not normalised":
        k = k / np.sqrt((k**2).sum(axis=-1, keepdims=True) + EPS)
    logits = np.moveaxis(projected[:, :, starts[3] : starts[3] + heads], 0, 1)
    beta = (1 if wrong == "beta not scaled" else sequence.options["beta_scale"]) * (
        1 / (1 + np.exp(-logits))
    )
    outputs = np.zeros((length, batch, heads, value_size))
    for t in range(length):
        for b in range(batch):
            for h in range(heads):
                s, before = state[b, h], state[b, h].copy()
                key, value, strength = k[b, t, h], v[b, t, h], beta[b, t, h]
                if wrong == "write before the correction":
                    s += strength * np.outer(key, value)
                    s -= strength * np.outer(key, key @ s)
                else:
                    s += strength * np.outer(key, value - key @ s)
                read = before if wrong == "read before the write" else s
                outputs[t, b, h] = sequence.options["scale"] * (q[b, t, h] @ read)
    axes = (-2, -1) if wrong == "norm of all heads" else (-1,)
    outputs /= np.sqrt((outputs**2).mean(axis=axes, keepdims=True) + EPS)
    return (outputs * norm_scale).reshape(length, batch, -1), state


def check_steps(run, sequence: Sequence, bound) -> None:
    """Compares `run`, called for one token after the other, with `steps`."""
    outputs, rest = [], sequence
    for token in range(len(sequence.projected)):
        output, tails, state = run(*rest.arguments(token))
        rest = rest._replace(tails=tails, state=state)
        outputs.append(output)
        assert output.dtype == sequence.projected.dtype
    wanted, final_state = steps(sequence)
    assert_close("outputs", jnp.stack(outputs), wanted, bound)
    assert_close("state", rest.state, final_state, bound)
    for tail, start in zip(rest.tails, sequence.options["columns"], strict=False):
        past, size = tail.shape[1:]
        new = sequence.projected[-past:, :, start : start + size]
        assert (tail[:, -len(new) :] == jnp.moveaxis(new, 0, 1)).all()
