# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The selective scan token by token, arguments for it, and the comparison of both."""

import jax
import jax.numpy as jnp

from tests.helpers.compare import BOUNDS, assert_close
from tests.helpers.operators import outputs_and_gradients, outputs_and_gradients_of_recurrence

LABELS = ("y", "state", "dx", "ddt", "da", "db", "dc", "dinitial_state")


def make_args(length, dtype, sizes=(2, 6, 4)):
    """Time steps of every strength, so decays from 1 down to e^-30."""
    batch, channels, states = sizes
    keys = jax.random.split(jax.random.key(3), 6)
    shapes = [(batch, length, channels), (batch, length, states), (batch, length, states)]
    x, b, c = (jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=False))
    wide = jnp.promote_types(dtype, jnp.float32)
    dt = jnp.exp(jax.random.uniform(keys[3], x.shape, wide, -8.0, 2.0))
    a = -jnp.exp(jax.random.normal(keys[4], (states, channels), wide))
    state = jax.random.normal(keys[5], (batch, states, channels), wide)
    return x, dt, a, b, c, state


def recur(x, dt, a, b, c, state, ids=None, *, decay=lambda dt, a: jnp.exp(dt * a), early=False):
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t, token by token."""
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    starts = jnp.diff(ids, axis=1, prepend=ids[:, :1]) != 0

    def token(h, inputs):
        x, dt, b, c, starts = inputs
        before = jnp.where(starts[:, None, None], 0, h)
        h = decay(dt[:, None], a[None]) * before + b[:, :, None] * (dt * x)[:, None]
        return h, jnp.einsum("bn,bnd->bd", c, before if early else h)

    inputs = (jnp.moveaxis(y, 1, 0) for y in (x, dt, b, c, starts))
    state, y = jax.lax.scan(token, state, tuple(inputs))
    return jnp.moveaxis(y, 0, 1), state


def check_scan(fast, args, ids=None):
    """Outputs and gradients of `fast`(*args, ids) against `recur` in float64."""
    dtype = args[0].dtype
    cotangents = (jnp.cos(args[0]), jnp.cos(args[-1]))
    got = outputs_and_gradients(fast, args, cotangents, ids)
    wide, cotangents = jax.tree.map(lambda x: x.astype(jnp.float64), (args, cotangents))
    wanted = outputs_and_gradients_of_recurrence(recur, wide, cotangents, ids)
    for label, x, y in zip(LABELS, got, wanted, strict=True):
        assert_close(label, x, y, BOUNDS[dtype.name])
    for x, y in zip(got, (args[0], args[-1], *args), strict=True):
        assert x.dtype == y.dtype
