# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""All mixers: kind -> (config, module). The one place that lists them."""

from flax import nnx

from deltanet_jax.mixers.attention import Attention, AttentionConfig
from deltanet_jax.mixers.base import Context, MixerConfig
from deltanet_jax.mixers.delta_net import DeltaNet, DeltaNetConfig
from deltanet_jax.mixers.delta_product import DeltaProduct, DeltaProductConfig
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNet, GatedDeltaNetConfig
from deltanet_jax.mixers.gla import GLA, GLAConfig
from deltanet_jax.mixers.hyena import Hyena, HyenaConfig
from deltanet_jax.mixers.kda import KDA, KDAConfig
from deltanet_jax.mixers.linear_attention import LinearAttention, LinearAttentionConfig
from deltanet_jax.mixers.mamba import Mamba, MambaConfig
from deltanet_jax.mixers.retnet import RetNet, RetNetConfig
from deltanet_jax.mixers.rwkv4 import (
    RWKV4,
    RWKV4ChannelMix,
    RWKV4ChannelMixConfig,
    RWKV4Config,
)

MIXERS: dict[str, tuple[type[MixerConfig], type[nnx.Module]]] = {
    "delta_net": (DeltaNetConfig, DeltaNet),
    "gated_delta_net": (GatedDeltaNetConfig, GatedDeltaNet),
    "kda": (KDAConfig, KDA),
    "delta_product": (DeltaProductConfig, DeltaProduct),
    "gla": (GLAConfig, GLA),
    "retnet": (RetNetConfig, RetNet),
    "mamba": (MambaConfig, Mamba),
    "rwkv4": (RWKV4Config, RWKV4),
    "rwkv4_channel_mix": (RWKV4ChannelMixConfig, RWKV4ChannelMix),
    "hyena": (HyenaConfig, Hyena),
    "attention": (AttentionConfig, Attention),
    "linear_attention": (LinearAttentionConfig, LinearAttention),
}


def make_mixer(config: MixerConfig, context: Context, *, rngs: nnx.Rngs) -> nnx.Module:
    """The module that `config` describes."""
    return MIXERS[config.kind][1](config, context, rngs=rngs)
