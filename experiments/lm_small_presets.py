# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's main table in small: lm_small/MODEL, and its ablation: lm_small/NORM-ACTIVATION.

Every model has the width and heads of the paper's 340M models (1024; 8 heads of 128), 6 layers and
tied embeddings: 110M parameters, 77M of them not embeddings, the same within 1 % by the width of
the SwiGLU layers. All see the same 150M tokens of English Wikipedia (four passes) in the same
order; the ablation's half of them. The recipe is the paper's (AdamW, cosine to a tenth, a thirtieth
of warm-up, clipping at 1, contexts of 2048 tokens cut from documents one after another), scaled to
few tokens and a small model: batches of 32,768 tokens for thousands of steps, a rate of 1e-3, and a
weight decay of 0.5, as four passes over the same text overfit with less: with 0.1 training loss
ended 0.5 nats below held-out loss. README has what other recipes gave (experiments/LOG.md).

For one GPU of 80 GiB; experiments.lm_small trains and evaluates them (README's results).
Data, with the Mistral tokenizer:

    python -m experiments.prepare_data --data=train.txt.xz --valid_data=valid.txt.xz \\
        --test_data=test.txt.xz --documents=title --tokenizer=tokenizer.model --out=runs/wiki
    python -m experiments.main --preset=lm_small/delta_net --workdir=runs/dn --data=runs/wiki
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.base import MixerConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNetConfig
from deltanet_jax.mixers.gla import GLAConfig
from deltanet_jax.mixers.mamba import MambaConfig
from deltanet_jax.mixers.retnet import RetNetConfig
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from experiments.run_config import RunConfig
from experiments.tasks.tokens.task import TokensConfig

PREFIX = "lm_small/"
MISTRAL_V1 = "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"
LAYERS = 6
SEQ_LEN = 2048
BATCH = 16
TOKENS = 150e6
# The paper names no window; its states of the whole are about 1000 times the width a layer.
WINDOW = 1024

DELTA_NET = DeltaNetConfig(num_heads=8, residuals="save")
ATTENTION = AttentionConfig(num_heads=8)
# Global attention in layers 2 and N / 2 + 1, counted from 1 (section 3.4).
GLOBAL = tuple(ATTENTION if i + 1 in (2, LAYERS // 2 + 1) else DELTA_NET for i in range(LAYERS))


class Shape(NamedTuple):
    """What tells a model from the others.

    Attributes:
        layer_pattern: as in `ModelConfig`.
        mlp_hidden_size: makes up for larger mixers.
        title: in the report.
        num_layers: twice as many where a layer is a mixer alone.
    """

    layer_pattern: tuple[MixerConfig, ...]
    mlp_hidden_size: int
    title: str
    num_layers: int = LAYERS


# In the authors' code of the paper's time queries and keys had their SiLU inside the convolution, so
# without it none; the paper's text has it in both, as "delta_net_no_conv" has.
MODELS: dict[str, Shape] = {
    "transformer_pp": Shape((ATTENTION,), 2816, "Transformer++"),
    "retnet": Shape((RetNetConfig(num_heads=8),), 1472, "RetNet (no conv)"),
    "mamba": Shape((MambaConfig(),), 0, "Mamba", 2 * LAYERS),
    "gla": Shape((GLAConfig(num_heads=4),), 2816, "GLA (no conv)"),
    "delta_net_no_conv": Shape((DELTA_NET.replace(conv_size=0),), 2816, "DeltaNet (no conv)"),
    "delta_net_no_conv_identity": Shape(
        (DELTA_NET.replace(conv_size=0, qk_activation="identity"),),
        2816,
        "DeltaNet (no conv, no SiLU of q, k)",
    ),
    "delta_net": Shape((DELTA_NET,), 2816, "DeltaNet (conv)"),
    "delta_net_swa": Shape(
        (DELTA_NET, ATTENTION.replace(window=WINDOW)), 2816, "DeltaNet + sliding attention"
    ),
    "delta_net_global": Shape(GLOBAL, 2816, "DeltaNet + 2 global attention"),
    "gated_delta_net": Shape((GatedDeltaNetConfig(num_heads=8),), 2496, "Gated DeltaNet"),
}
ABLATION: dict[str, Shape] = {
    f"{norm}-{activation}": Shape(
        (DELTA_NET.replace(qk_norm=norm, qk_activation=activation),), 2816, f"{written}, {name}"
    )
    for norm, written in (("l2", "L2 norm"), ("l1", "L1 norm"))
    for activation, name in (
        ("silu", "SiLU"),
        ("relu", "ReLU"),
        ("elu_plus_one", "1+ELU"),
        ("identity", "identity"),
    )
}


def with_seed(name: str, seed: int | str) -> str:
    """The folder of a model's run with another seed than the preset's."""
    return f"{name}-seed-{seed}" if seed else name


def lm_small(shape: Shape, tokens: float) -> RunConfig:
    """One model of the table, trained on so many tokens."""
    num_steps = -int(-tokens // (BATCH * SEQ_LEN))
    eighth = num_steps // 8
    return RunConfig(
        model=ModelConfig(
            vocab_size=32_000,
            d_model=1024,
            num_layers=shape.num_layers,
            layer_pattern=shape.layer_pattern,
            mlp_hidden_size=shape.mlp_hidden_size,
            tie_embeddings=True,
            compute_dtype="bfloat16",
            remat="arguments",
            scan_unroll=shape.num_layers // len(shape.layer_pattern),
        ),
        task=TokensConfig(
            vocab_size=32_000,
            seq_len=SEQ_LEN,
            concatenate=True,
            tokenizer_digest=MISTRAL_V1,
            max_eval_windows=0,
        ),
        train=TrainConfig(
            num_steps=num_steps,
            batch_size=BATCH,
            eval_every_steps=eighth,
            checkpoint_every_steps=eighth * 4,
            keep_checkpoints=1,
            optimizer=OptimizerConfig(
                learning_rate=1e-3,
                min_learning_rate=1e-4,
                warmup_steps=round(num_steps / 30),
                weight_decay=0.5,
            ),
        ),
    )


LM_SMALL_PRESETS: dict[str, Callable[[], RunConfig]] = {
    PREFIX + name: functools.partial(lm_small, shape, tokens)
    for shapes, tokens in ((MODELS, TOKENS), (ABLATION, TOKENS / 2))
    for name, shape in shapes.items()
}
