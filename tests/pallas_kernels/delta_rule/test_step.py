# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Token by token equals the whole sequence."""

import jax
import jax.numpy as jnp

from pallas_kernels import delta_rule, delta_rule_step
from pallas_kernels.delta_rule.workloads import make_inputs
from tests.helpers.compare import assert_close


def test_steps_equal_the_sequence(x64):
    args = make_inputs(jax.random.key(0), 2, 30, 3, 8, 12, "float64")
    state = jnp.zeros((2, 3, 8, 12), jnp.float64)
    outputs = []
    for t in range(30):
        output, state = delta_rule_step(state, *(x[:, t] for x in args), scale=0.5)
        outputs.append(output)
    wanted = delta_rule(*args, scale=0.5, implementation="reference")
    assert_close("output", jnp.stack(outputs, axis=1), wanted.output, 1e-14)
    assert_close("state", state, wanted.final_state, 1e-14)
