# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Named model configs of the paper (Yang et al. 2024, arXiv:2406.06484, section 4.2)."""

from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.model import ModelConfig


def deltanet_340m() -> ModelConfig:
    """24 layers of width 1024, 8 heads of 128, tied embeddings: 341,594,112 parameters."""
    return ModelConfig(
        vocab_size=32_000,
        d_model=1024,
        num_layers=24,
        layer_pattern=(DeltaNetConfig(num_heads=8),),
        tie_embeddings=True,
        compute_dtype="bfloat16",
    )


def deltanet_1b3() -> ModelConfig:
    """24 layers of width 2048, 16 heads of 128, untied: 1,365,677,056 parameters."""
    return ModelConfig(
        vocab_size=32_000,
        d_model=2048,
        num_layers=24,
        layer_pattern=(DeltaNetConfig(num_heads=16),),
        compute_dtype="bfloat16",
    )
