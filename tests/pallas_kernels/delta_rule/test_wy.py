# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The triangular inverse: against LAPACK in float64, where powers of A would fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.delta_rule import wy
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers.compare import assert_close, rms_ratio

unit_lower_inverse = jax.jit(wy.unit_lower_inverse)


def _matrices(size, keys, beta_range, norm=1.0):
    _, k, _, beta = make_inputs(
        jax.random.key(0), 4, size, 3, 64, 8, beta_range=beta_range, keys=keys
    )
    gram = jnp.einsum("bihk,bjhk->bhij", norm * k, norm * k)
    return jnp.tril(jnp.swapaxes(beta, 1, 2)[..., None] * gram, -1)


def _inverse_float64(a):
    return np.linalg.inv(np.eye(a.shape[-1]) + np.tril(np.asarray(a, np.float64), -1))


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("keys", ["random", "repeated"])
@pytest.mark.parametrize("beta_range", [(0.0, 1.0), (1.0, 2.0)], ids=["beta_0_1", "beta_1_2"])
def test_inverse_in_float32(size, keys, beta_range):
    a = _matrices(size, keys, beta_range)
    assert_close("inverse", unit_lower_inverse(a), _inverse_float64(a), 5e-6)


def test_entries_on_and_above_the_diagonal_are_not_read():
    a = _matrices(64, "random", (0.0, 1.0))
    garbage = a + jnp.triu(jnp.full((64, 64), 3.0))[None, None]
    assert (unit_lower_inverse(garbage) == unit_lower_inverse(a)).all()


def test_a_neumann_series_fails_where_the_inverse_holds():
    """Why this file exists: the bound above rejects products of powers of A."""
    a = _matrices(64, "repeated", (1.0, 2.0))
    identity = jnp.eye(64)[None, None]
    series, power = identity - a, a @ a
    for _ in range(5):
        series, power = series @ (identity + power), power @ power
    assert not rms_ratio(series, _inverse_float64(a)) < 5e-6
