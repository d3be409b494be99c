# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What a model costs: operations a token, and what is made of them (MFU, HFU).

A training step needs, for every token, `F = 6 N_matmul + 6 N_conv + memory` operations: two for
every weight in the forward pass (a multiplication and an addition) and four in the backward;
`memory` is what mixers do beside their weights, 24 H K V a layer for the delta rule (8 H K V
forward: read, correct, write, read out). Embedding look-ups cost nothing. MFU is F times the
tokens a second over the devices' peak; what is computed twice to save memory does not count. HFU
counts it.
"""

import collections
import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

from deltanet_jax.model import LanguageModel, ModelConfig
from deltanet_jax.sharding import path_name

# Dense bf16 matrix operations a second by the vendor's data sheets, by `device_kind`.
PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Operations of one training step, per token.

    Attributes:
        parameters: numbers in all weights.
        matmul_parameters: those that multiply every token, the head (tied or not) among them.
        flops: F, without anything computed twice.
        recomputed_flops: what rematerialisation computes a second time.
    """

    parameters: int
    matmul_parameters: int
    flops: float
    recomputed_flops: float

    def mfu(self, tokens_per_second: float, peak_flops: float) -> float:
        """Model FLOP utilisation, a fraction of `peak_flops` (of all devices together)."""
        return tokens_per_second * self.flops / peak_flops

    def hfu(self, tokens_per_second: float, peak_flops: float) -> float:
        """Hardware FLOP utilisation: MFU with what is computed twice."""
        return tokens_per_second * (self.flops + self.recomputed_flops) / peak_flops


@functools.cache
def cost(config: ModelConfig, seq_len: int) -> Cost:
    """The cost of training `config` on sequences of `seq_len` tokens."""
    model = nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
    sizes = collections.Counter()
    for path, x in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model))):
        *folders, last = path_name(path).split("/")
        # Hyena's filters are made of positions, once for all rows of a batch.
        sizes["filter" if "filter" in folders else last] += int(np.prod(x.shape))
    matmul = sizes["kernel"] + (sizes["embedding"] if config.tie_embeddings else 0)
    repeats = config.num_layers // len(config.layer_pattern)
    memory = repeats * sum(m.memory_flops(config.d_model, seq_len) for m in config.layer_pattern)
    flops = 6 * (matmul + sizes["weight"]) + memory
    head = 2 * config.vocab_size * config.d_model
    # "products" computes no product of weights twice.
    recomputed = flops / 3 - head if config.remat == "full" else 0.0
    return Cost(sizes.total(), matmul, float(flops), float(recomputed))


def peak_flops(devices) -> float | None:
    """Dense bf16 operations a second of all `devices`, or None for kinds not in PEAK_FLOPS."""
    peaks = [PEAK_FLOPS.get(device.device_kind) for device in devices]
    return None if None in peaks else sum(peaks)
