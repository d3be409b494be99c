# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Named model configs of the paper (Yang et al. 2024, arXiv:2406.06484, section 4.2)."""

from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.model import ModelConfig

DELTA_NET_1B3 = DeltaNetConfig(num_heads=16, residuals="save")


def deltanet_340m() -> ModelConfig:
    """24 layers of width 1024, 8 heads of 128, tied embeddings: 341,594,112 parameters."""
    return ModelConfig(
        vocab_size=32_000,
        d_model=1024,
        num_layers=24,
        layer_pattern=(DeltaNetConfig(num_heads=8, residuals="save"),),
        tie_embeddings=True,
        compute_dtype="bfloat16",
        remat="arguments",
        scan_unroll=24,
    )


def deltanet_1b3() -> ModelConfig:
    """24 layers of width 2048, 16 heads of 128, untied: 1,365,677,056 parameters."""
    return ModelConfig(
        vocab_size=32_000,
        d_model=2048,
        num_layers=24,
        layer_pattern=(DELTA_NET_1B3,),
        compute_dtype="bfloat16",
        remat="arguments",
        scan_unroll=24,
    )


def deltanet_1b3_swa() -> ModelConfig:
    """The 1.3B model with every second layer a sliding window of 2048 tokens.

    The paper gives no window; 2048 is its training context's length and ours to choose.
    """
    return deltanet_1b3().replace(
        layer_pattern=(DELTA_NET_1B3, AttentionConfig(num_heads=16, window=2048))
    )


def deltanet_1b3_global() -> ModelConfig:
    """The 1.3B model with global attention at layers 2 and N/2 + 1, counted from 1."""
    pattern = [DELTA_NET_1B3] * 24
    pattern[1] = pattern[12] = AttentionConfig(num_heads=16)
    return deltanet_1b3().replace(layer_pattern=tuple(pattern))


def transformer_1b3() -> ModelConfig:
    """Transformer++ of the same shape: rotary softmax attention and SwiGLU."""
    return deltanet_1b3().replace(layer_pattern=(AttentionConfig(num_heads=16),))


def deltanet_3b() -> ModelConfig:
    """A 3B model. The paper's blog names one and no sizes: width 2560, 32 layers, 20 heads of 128
    and an untied vocabulary of 49,152 are ours, after PowerLM-3B's budget.
    """
    return ModelConfig(
        vocab_size=49_152,
        d_model=2560,
        num_layers=32,
        layer_pattern=(DeltaNetConfig(num_heads=20, residuals="save"),),
        compute_dtype="bfloat16",
        remat="arguments",
        scan_unroll=32,
    )
