# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Small models and tasks that tests share."""

import jax
from flax import nnx

from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.mixers.delta_product import DeltaProductConfig
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNetConfig
from deltanet_jax.mixers.gla import GLAConfig
from deltanet_jax.mixers.hyena import HyenaConfig
from deltanet_jax.mixers.kda import KDAConfig
from deltanet_jax.mixers.linear_attention import LinearAttentionConfig
from deltanet_jax.mixers.mamba import MambaConfig
from deltanet_jax.mixers.retnet import RetNetConfig
from deltanet_jax.mixers.rwkv4 import RWKV4ChannelMixConfig, RWKV4Config
from deltanet_jax.model import LanguageModel, ModelConfig
from experiments.tasks.mqar.task import MQARConfig

# One of each kind and each option that changes what is computed.
MIXERS = {
    "delta_net": DeltaNetConfig(num_heads=2, chunk_size=16),
    "delta_net-options": DeltaNetConfig(
        num_heads=2,
        head_k_dim=8,
        head_v_dim=12,
        conv_size=0,
        qk_activation="elu_plus_one",
        qk_norm="l1",
        allow_neg_eigval=True,
        output_gate=True,
        chunk_size=16,
    ),
    "gated_delta_net": GatedDeltaNetConfig(num_heads=2, head_v_dim=12, chunk_size=16),
    "kda": KDAConfig(num_heads=2, head_v_dim=12, chunk_size=16),
    "delta_product": DeltaProductConfig(num_heads=2, num_householder=2, chunk_size=16),
    "gla": GLAConfig(num_heads=2, conv_size=3, decay_temperature=2.0, chunk_size=16),
    "retnet": RetNetConfig(num_heads=2, chunk_size=16),
    "mamba": MambaConfig(state_size=3, chunk_size=16),
    "rwkv4": RWKV4Config(),
    "rwkv4_channel_mix": RWKV4ChannelMixConfig(widening=3),
    "hyena": HyenaConfig(filter_length=16, filter_hidden=8, filter_bands=2),
    "hyena-heads": HyenaConfig(
        num_heads=4, conv_size=0, filter_length=64, filter_hidden=8, filter_bands=2
    ),
    "attention": AttentionConfig(num_heads=4, num_kv_heads=2),
    "attention-window": AttentionConfig(num_heads=2, window=5),
    "linear_attention": LinearAttentionConfig(num_heads=2, chunk_size=16),
    "linear_attention-options": LinearAttentionConfig(
        num_heads=2,
        conv_size=3,
        feature_map="silu",
        normalize=False,
        output_norm=True,
        chunk_size=16,
    ),
}


def small_config(*mixers, **changes) -> ModelConfig:
    """Width 16, two layers, large initial weights so that nothing is near zero."""
    values = {"vocab_size": 32, "d_model": 16, "num_layers": 2, "init_std": 0.5}
    return ModelConfig(layer_pattern=mixers or (MIXERS["delta_net"],), **(values | changes))


def quick_config(dtype: str) -> ModelConfig:
    """One layer that compiles fast; weights and activations in `dtype`."""
    kinds = {"param_dtype": dtype, "compute_dtype": dtype}
    return small_config(MIXERS["rwkv4_channel_mix"], mlp_hidden_size=0, num_layers=1, **kinds)


def small_model(*mixers, **changes) -> LanguageModel:
    return LanguageModel(small_config(*mixers, **changes), rngs=nnx.Rngs(0))


def random_tokens(batch=2, length=37, vocab_size=32):
    return jax.random.randint(jax.random.key(1), (batch, length), 0, vocab_size)


def small_task(**changes) -> MQARConfig:
    values = {
        "vocab_size": 32,
        "seq_len": 16,
        "num_kv_pairs": 2,
        "num_train_examples": 96,
        "num_eval_examples": 20,
    }
    return MQARConfig(**(values | changes))
