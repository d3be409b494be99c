# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The drift of states, after few tokens."""

import dataclasses

import pytest

from experiments import drift
from tests.helpers.compare import BOUNDS

QUICK = ("delta_rule", "wkv")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in drift.OPERATORS]
)
def test_float32_in_chunks_is_near_float64_token_by_token(name):
    assert 0 < drift.drift(drift.OPERATORS[name], 70) < BOUNDS["float32"]


def test_a_wrong_step_is_seen():
    """One whose state is a thousandth too large after every token."""
    right = drift.OPERATORS["wkv"]

    def step(state, token, rest):
        output, state = right.step(state, token, rest)
        return output, state._replace(numerator=1.001 * state.numerator)

    assert drift.drift(dataclasses.replace(right, step=step), 70) > 1e-3


def test_drifts_are_a_table():
    rows = [{"operator": "wkv", "tokens": 10**n, "rms_ratio": 10.0**-n} for n in (3, 1)]
    assert drift.table(rows).splitlines()[::2] == [
        "| operator | 10 tokens | 1,000 tokens |",
        "| `wkv` | 1.0e-01 | 1.0e-03 |",
    ]
