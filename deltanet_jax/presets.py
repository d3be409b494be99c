# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Named model configs of the paper (Yang et al. 2024, arXiv:2406.06484, section 4.2).

Every row of its main table is here at both sizes; so are hybrids with Gated DeltaNet. What the
paper does not state (heads of the attention layers, windows, RetNet's feed-forward width) is ours
to choose, so that state sizes are the paper's and all models of a size have about as many weights.
"""

from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNetConfig
from deltanet_jax.mixers.gla import GLAConfig
from deltanet_jax.mixers.mamba import MambaConfig
from deltanet_jax.mixers.retnet import RetNetConfig
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


def main_table(size: ModelConfig) -> dict[str, ModelConfig]:
    """The models of the paper's main table, shaped like its DeltaNet, `size`; and Gated DeltaNets.

    RetNet (a state of 512 numbers a feature) and Gated DeltaNet have wider mixers and so narrower
    feed-forward layers; Mamba has none and twice as many layers; GLA has 4 heads at both sizes. The
    paper gives no window: 2048 is its training context's length. Global attention is at layers 2
    and N/2 + 1, counted from 1. Gated DeltaNet's hybrid has attention in every fourth layer.
    """
    (delta_net,) = size.layer_pattern
    heads, width = delta_net.num_heads, size.d_model
    attention = AttentionConfig(num_heads=heads)
    gated = GatedDeltaNetConfig(num_heads=heads)
    two_global = [delta_net] * size.num_layers
    two_global[1] = two_global[size.num_layers // 2] = attention

    def of(*pattern, **changes) -> ModelConfig:
        return size.replace(layer_pattern=pattern, **changes)

    def hidden(share: float) -> int:
        return 256 * -(-int(share * width) // 256)

    twice = 2 * size.num_layers
    return {
        "transformer": of(attention),
        "retnet": of(RetNetConfig(num_heads=width // 256), mlp_hidden_size=hidden(4 / 3)),
        "mamba": of(MambaConfig(), num_layers=twice, scan_unroll=twice, mlp_hidden_size=0),
        "gla": of(GLAConfig(num_heads=4)),
        "gla_conv": of(GLAConfig(num_heads=4, conv_size=4)),
        "deltanet_no_conv": of(delta_net.replace(conv_size=0)),
        "deltanet": size,
        "deltanet_swa": of(delta_net, attention.replace(window=2048)),
        "deltanet_global": of(*two_global),
        "deltanet_l1_elu": of(delta_net.replace(qk_norm="l1", qk_activation="elu_plus_one")),
        "deltanet_l2_elu": of(delta_net.replace(qk_activation="elu_plus_one")),
        "deltanet_l2_relu": of(delta_net.replace(qk_activation="relu")),
        "gated_deltanet": of(gated, mlp_hidden_size=hidden(7 / 3)),
        "gated_deltanet_attention": of(gated, gated, gated, attention, mlp_hidden_size=hidden(2.4)),
    }


def deltanet_1b3_swa() -> ModelConfig:
    """The 1.3B model with every second layer a sliding window of 2048 tokens."""
    return main_table(deltanet_1b3())["deltanet_swa"]


def deltanet_1b3_global() -> ModelConfig:
    """The 1.3B model with global attention at layers 2 and N/2 + 1, counted from 1."""
    return main_table(deltanet_1b3())["deltanet_global"]


def transformer_1b3() -> ModelConfig:
    """Transformer++ of the same shape: rotary softmax attention and SwiGLU."""
    return main_table(deltanet_1b3())["transformer"]


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
