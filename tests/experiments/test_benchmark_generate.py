# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The decoding benchmark: a small case end to end, the bytes of its floor, what it refuses."""

import json
import types

import jax.numpy as jnp
import pytest

from deltanet_jax.mixers.attention import AttentionState
from experiments.benchmarks import generate, generate_tables
from tests.helpers.models import MIXERS, small_config


def flags(**changes):
    values = {
        "presets": ["deltanet_1b3"],
        "batch_sizes": ["1", "128"],
        "layouts": ["model", "decoder"],
        "token_unroll": ["2"],
        "prompt_tokens": 5,
        "chunk_tokens": 4,
        "repetitions": 3,
        "param_dtype": "float32",
    }
    return types.SimpleNamespace(**(values | changes))


def test_every_layout_and_batch_is_planned():
    planned = [(c.batch_size, c.layout, c.token_unroll) for c in generate.cases(flags())]
    assert planned == [(1, "model", 2), (1, "decoder", 2), (128, "model", 2), (128, "decoder", 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presets": ["gpt"]}, "^presets: wanted some of"),
        ({"layouts": ["fast"]}, "^layouts: wanted some of"),
        ({"batch_sizes": ["0"]}, "^batch_sizes: wanted numbers of at least 1, got 0"),
        ({"token_unroll": ["two"]}, "^token_unroll: wanted numbers of at least 1, got two"),
    ],
)
def test_impossible_flags_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        generate.cases(flags(**changes))


@pytest.mark.parametrize("layout", ["decoder", pytest.param("model", marks=pytest.mark.slow)])
def test_a_case_is_timed(layout):
    (case,) = generate.cases(flags(batch_sizes=["2"], layouts=[layout]))
    clock = types.SimpleNamespace(copy_ms=1.0, copy_bytes=1000)
    config = small_config(MIXERS["delta_net"])
    row = generate.time_case(case, config, clock)
    assert row["tokens_per_second"] == pytest.approx(2e3 / row["ms_per_token"], rel=1e-3)
    d, hidden = config.d_model, 256
    layer = d * (3 * d + 2) + 3 * 4 * d + 8 + d * d + 2 * d + 3 * d * hidden
    states = 2 * (2 * 8 * 8 + 3 * 3 * d)  # rows x (memory and convolutions' tails)
    weights = 4 * (2 * layer + d + d * config.vocab_size)
    moved = weights + 2 * 4 * 2 * states
    assert (row["weight_bytes"], row["moved_bytes"]) == (weights, moved)
    assert row["floor_ms"] == pytest.approx(moved / 2000, rel=1e-3)
    assert row["of_weights_floor"] == pytest.approx(row["of_floor"] * weights / moved, rel=1e-2)


def test_caches_are_read_and_an_embedding_that_is_the_head_too():
    cache = AttentionState(*(jnp.zeros(n, jnp.int32) for n in (10, 10, 3, 1)))
    weights = {"embedding": jnp.zeros(7), "head": jnp.zeros(5)}
    states = (cache, jnp.zeros(2))
    assert generate.moved_states(states) == 4 * (24 + 2 * 2)
    assert generate.read_weights(weights, False) == 4 * 5
    assert generate.read_weights(weights, True) == 4 * (7 + 5)


def test_the_table_has_the_latest_row_of_each_way(tmp_path):
    row = {"preset": "p", "batch_size": 1, "layout": "decoder", "tokens_per_second": 1.0}
    row |= {"of_floor": 0.5, "commit": "0123456789", "date": "1", "ms_per_token": 2.0}
    newer = row | {"date": "2", "ms_per_token": 3.0}
    at_once = row | {"implementation": "at_once", "ms_per_token": 1.0, "of_weights_floor": 0.4}
    path = tmp_path / "generate.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (newer, row, at_once)))
    assert generate_tables.load(path) == [newer, at_once]
    table = generate_tables.generate_table([newer, at_once]).splitlines()
    assert table[2:] == [
        "| p | 1 | a product a kernel | 3.00 | 1 | 50.0% | – | 0123456 |",
        "| p | 1 | all layers in one kernel | 1.00 | 1 | 50.0% | 40.0% | 0123456 |",
    ]
    assert generate_tables.load(tmp_path / "none") == []
