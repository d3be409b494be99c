# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""DeltaNet and its relatives as a library: layers, models, generation, training.

No flags, no paths, no globals: scripts live in `experiments`, operators in `pallas_kernels`.
"""

from deltanet_jax.generate import generate as generate
from deltanet_jax.generate import stream as stream
from deltanet_jax.mixers.attention import AttentionConfig as AttentionConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig as DeltaNetConfig
from deltanet_jax.mixers.delta_product import DeltaProductConfig as DeltaProductConfig
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNetConfig as GatedDeltaNetConfig
from deltanet_jax.mixers.gla import GLAConfig as GLAConfig
from deltanet_jax.mixers.hyena import HyenaConfig as HyenaConfig
from deltanet_jax.mixers.kda import KDAConfig as KDAConfig
from deltanet_jax.mixers.linear_attention import LinearAttentionConfig as LinearAttentionConfig
from deltanet_jax.mixers.mamba import MambaConfig as MambaConfig
from deltanet_jax.mixers.retnet import RetNetConfig as RetNetConfig
from deltanet_jax.mixers.rwkv4 import RWKV4ChannelMixConfig as RWKV4ChannelMixConfig
from deltanet_jax.mixers.rwkv4 import RWKV4Config as RWKV4Config
from deltanet_jax.model import LanguageModel as LanguageModel
from deltanet_jax.model import ModelConfig as ModelConfig
from deltanet_jax.presets import deltanet_1b3 as deltanet_1b3
from deltanet_jax.presets import deltanet_340m as deltanet_340m
from deltanet_jax.sampling import Sampling as Sampling
