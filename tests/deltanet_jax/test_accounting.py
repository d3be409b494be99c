# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Operations a token, against counts by hand and against XLA's; bytes that have to be there."""

import jax
import pytest

from deltanet_jax.accounting import cost
from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.presets import deltanet_1b3
from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.memory import estimate
from tests.helpers.models import MIXERS, small_config


def test_the_paper_scale_model():
    """1,299,333,120 weights multiply (layers 1,233,797,120 and the head 65,536,000)."""
    config = deltanet_1b3()
    layer = 4 * 2048**2 + 2048 * 16 + 3 * 2048 * 5632
    matmul = 24 * layer + 2048 * 32_000
    got = cost(config, 2048)
    assert (got.parameters, got.matmul_parameters) == (1_365_677_056, matmul)
    conv, memory = 24 * 3 * 4 * 2048, 24 * 24 * 16 * 128 * 128
    assert got.flops == 6 * matmul + 6 * conv + memory
    assert got.flops == pytest.approx(7.951e9, rel=1e-4)
    assert cost(config, 32_768).flops == got.flops  # linear: the same for any length
    assert got.recomputed_flops == 0


def test_utilisation():
    got = cost(deltanet_1b3().replace(remat="full"), 2048)
    assert got.mfu(70_000, 989e12) == pytest.approx(0.5628, abs=1e-4)
    head = 2 * 2048 * 32_000
    assert got.hfu(70_000, 989e12) == pytest.approx(
        70_000 * (got.flops * 4 / 3 - head) / 989e12, rel=1e-9
    )


@pytest.mark.parametrize(("window", "seen"), [(None, (1 + 2 + 3 + 4 + 5) / 5), (2, 9 / 5)])
def test_attention_counts_what_a_token_sees(window, seen):
    mixer = AttentionConfig(num_heads=4, window=window)
    assert mixer.memory_flops(16, 5) == pytest.approx(12 * 16 * seen)


@pytest.mark.parametrize(("length", "log_size"), [(1, 1), (8, 4), (2048, 12)])
def test_hyena_counts_transforms_of_twice_the_length(length, log_size):
    """There and back, 2.5 n log2 n operations each for n = 2 T numbers, and the product."""
    a_token = 2 * 2.5 * 2 * log_size + 3
    assert MIXERS["hyena"].memory_flops(16, length) == pytest.approx(3 * 16 * a_token)


def test_mixers_of_a_pattern_are_added_up():
    both = small_config(MIXERS["delta_net"], MIXERS["linear_attention"], num_layers=4)
    memory = 2 * (24 * 2 * 8 * 8 + 12 * 2 * 8 * 9)
    weights = cost(both, 32).flops - memory
    assert weights % 6 == 0
    tied = cost(both.replace(tie_embeddings=True), 32)
    assert tied.flops == cost(both, 32).flops  # the head multiplies, whosever weights it has


def test_the_weights_of_filters_multiply_no_tokens():
    """Positions alone, once for all rows: q, k, v, output (and head) are what tokens meet."""
    narrow = small_config(MIXERS["hyena"], mlp_hidden_size=0)
    wide = small_config(MIXERS["hyena"].replace(filter_hidden=64), mlp_hidden_size=0)
    assert cost(narrow, 32).matmul_parameters == 2 * 4 * 16 * 16 + 16 * 32
    assert cost(narrow, 32).parameters < cost(wide, 32).parameters
    assert cost(narrow, 32).flops == cost(wide, 32).flops


@pytest.mark.parametrize(("param_dtype", "own"), [("bfloat16", 2), ("float32", 4)])
def test_accumulated_gradients_take_four_bytes_beside_a_parts_own(param_dtype, own):
    config = TrainConfig(batch_size=2, accumulation_steps=2, mesh=MeshConfig(data=1))
    trainer = Trainer(small_config(param_dtype=param_dtype), config, jax.devices()[:1])
    count = sum(x.size for x in jax.tree.leaves(trainer.abstract_state.weights))
    assert estimate(trainer, config, 64).gradients == (4 + own) * count
