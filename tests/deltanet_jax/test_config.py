# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Configs: round trips, unknown keys, impossible values."""

import copy

import pytest

from deltanet_jax.mixers.base import MixerConfig
from deltanet_jax.mixers.gla import GLAConfig
from deltanet_jax.model import ModelConfig
from deltanet_jax.presets import deltanet_1b3, deltanet_340m
from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from experiments.presets import PRESETS
from experiments.run_config import RunConfig
from tests.helpers.models import MIXERS, small_config


@pytest.mark.parametrize("preset", [deltanet_340m, deltanet_1b3])
def test_model_round_trip(preset):
    assert ModelConfig.from_json(preset().to_json()) == preset()


def test_run_round_trip():
    for name, preset in PRESETS.items():  # hundreds: a test of each would cost more than its work
        config = preset()
        assert RunConfig.from_json(config.to_json()) == config, name


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_round_trip_finds_its_class(name):
    assert MixerConfig.from_dict(MIXERS[name].to_dict()) == MIXERS[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, r"ModelConfig: unknown keys \['depth'\]; known are"),
        ({"d_model": None}, "ModelConfig.d_model: wanted int, got None"),
        ({"d_model": "16"}, "ModelConfig.d_model: wanted int, got '16'"),
        ({"tie_embeddings": 1}, "ModelConfig.tie_embeddings: wanted bool, got 1"),
        ({"layer_pattern": "delta_net"}, "ModelConfig.layer_pattern: wanted a list"),
        (
            {"layer_pattern": [{"kind": ["delta_net"]}]},
            r"ModelConfig.layer_pattern\[0\].kind: wanted one of .* got \['delta_net'\]",
        ),
        (
            {"layer_pattern": [{"kind": "mamba7"}]},
            r"ModelConfig.layer_pattern\[0\].kind: wanted one of .*'delta_net'.* got 'mamba7'",
        ),
        (
            {"layer_pattern": [{"kind": "delta_net", "window": 3}]},
            r"ModelConfig.layer_pattern\[0\]: unknown keys \['window'\]",
        ),
    ],
)
def test_from_dict_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(small_config().to_dict() | change)


def test_a_missing_key_is_named():
    data = small_config().to_dict()
    del data["vocab_size"]
    with pytest.raises(ValueError, match=r"ModelConfig: missing keys \['vocab_size'\]"):
        ModelConfig.from_dict(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_config(num_layers=0), "num_layers: wanted at least 1, got 0"),
        (lambda: small_config(compute_dtype="int8"), "compute_dtype: wanted one of"),
        (lambda: small_config(embed_dropout=1.0), "embed_dropout: wanted"),
        (lambda: MIXERS["delta_net"].replace(qk_norm="l3"), "qk_norm: wanted one of"),
        (lambda: MIXERS["delta_net"].replace(chunk_size=48), "chunk_size: wanted one of"),
        (lambda: MIXERS["kda"].replace(implementation="pallas"), "implementation: "),
        (lambda: MIXERS["kda"].replace(residuals="save"), "residuals: wanted one of"),
        (lambda: MIXERS["delta_product"].replace(num_householder=0), "num_householder: wanted at"),
        (lambda: MIXERS["gla"].replace(decay_rank=0), "decay_rank: wanted at least 1, got 0"),
        (lambda: MIXERS["gla"].replace(decay_temperature=0.5), "decay_temperature: wanted at"),
        (lambda: MIXERS["attention"].replace(num_kv_heads=3), "num_kv_heads: wanted a divisor"),
        (lambda: MIXERS["attention"].replace(window=2.5), "^window: wanted int, got 2.5"),
        (lambda: MIXERS["delta_net"].replace(head_k_dim=-2), "^head_k_dim: wanted at least 1"),
        (lambda: GLAConfig(num_heads=1).head_sizes(5), "^head_k_dim: .*heads' width 2.5; got"),
        (lambda: MIXERS["gla"].replace(head_v_dim=0), "^head_v_dim: wanted at least 1, got 0"),
        (lambda: MIXERS["mamba"].replace(conv_size=2.5), "^conv_size: wanted int, got 2.5"),
        (lambda: MIXERS["hyena"].replace(num_heads="8"), "^num_heads: wanted int, got '8'"),
        (lambda: MIXERS["delta_net"].replace(num_heads=None), "^num_heads: wanted int, got None"),
        (lambda: MIXERS["linear_attention"].replace(feature_map="relu"), "normalize: wanted"),
        (lambda: MIXERS["delta_net"].replace(head_k_dim=0), "head_k_dim: wanted at least 1, got 0"),
        (lambda: MIXERS["gla"].replace(head_v_dim=-1), "head_v_dim: wanted at least 1, got -1"),
        (lambda: MIXERS["attention"].replace(head_dim=0), "head_dim: wanted at least 1, got 0"),
        (lambda: MIXERS["attention"].replace(rope_base=-1.0), "rope_base: wanted more than 0, got"),
        (lambda: MIXERS["retnet"].replace(rope_base=float("nan")), "rope_base: wanted more than 0"),
        (lambda: small_config().replace(layer_pattern=()), "layer_pattern: wanted a tuple of mix"),
        (lambda: MeshConfig(tensor=0), "mesh_tensor: wanted at least 1, got 0"),
        (lambda: MeshConfig(data=-2), "mesh_data: wanted at least 1 or -1, got -2"),
        (lambda: OptimizerConfig(b1=1.0), "b1: wanted"),
        (lambda: OptimizerConfig(schedule="step"), "schedule: wanted one of"),
        (lambda: OptimizerConfig(schedule="wsd"), "decay_steps: wanted at least 1 with schedule"),
        (lambda: OptimizerConfig(learning_rate=float("nan")), "learning_rate: wanted at least 0"),
        (lambda: TrainConfig(num_steps=5, optimizer=OptimizerConfig(warmup_steps=6)), "warmup"),
    ],
)
def test_impossible_values_are_named(no_jaxtyping, make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("pattern", [[MIXERS["gla"]], MIXERS["gla"], ("gla",)])
def test_a_pattern_is_a_tuple_of_configs(pattern):
    """A list cannot be hashed, which `jit` would say much later."""
    config = copy.copy(small_config())
    object.__setattr__(config, "layer_pattern", pattern)  # types of arguments are checked in tests
    with pytest.raises(ValueError, match=r"layer_pattern: wanted a tuple of .*, got .*(GLA|gla)"):
        config.__post_init__()


def test_pattern_must_tile_the_depth():
    with pytest.raises(ValueError, match="num_layers: wanted a multiple of .* 2 entries, got 3"):
        small_config(MIXERS["delta_net"], MIXERS["attention"], num_layers=3)
