# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Named runs. Each docstring says: command, machine, time, number to expect."""

import functools
from collections.abc import Callable, Iterator

from deltanet_jax import presets as models
from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.base import MixerConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.mixers.linear_attention import LinearAttentionConfig
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from experiments.lm_small_presets import LM_SMALL_PRESETS
from experiments.run_config import RunConfig
from experiments.suite_presets import SUITE_PRESETS
from experiments.tasks.language_modeling.task import LanguageModelingConfig
from experiments.tasks.mqar.task import MQARConfig
from experiments.tasks.tokens.task import TokensConfig


def _mqar_small(mixer: MixerConfig) -> RunConfig:
    """10 pairs in 40 tokens, heads of size 16: enough pairs for an additive memory to blur."""
    task = MQARConfig(vocab_size=64, seq_len=40, num_kv_pairs=10, num_eval_examples=500)
    return RunConfig(
        model=ModelConfig(
            vocab_size=task.vocab_size,
            d_model=32,
            num_layers=2,
            layer_pattern=(mixer,),
            mlp_hidden_size=0,
        ),
        task=task,
        train=TrainConfig(
            num_steps=600,
            batch_size=64,
            eval_every_steps=50,
            checkpoint_every_steps=100,
            optimizer=OptimizerConfig(learning_rate=1.5e-2, warmup_steps=40, weight_decay=0.1),
        ),
    )


def mqar_small_delta_net() -> RunConfig:
    """python -m experiments.main --preset=mqar/small-delta_net --workdir=runs/mqar

    Two CPU cores, one to two minutes; accuracy at least 0.99 (experiments/results/demo).
    """
    return _mqar_small(DeltaNetConfig(num_heads=2, chunk_size=16))


def mqar_small_linear_attention() -> RunConfig:
    """python -m experiments.main --preset=mqar/small-linear_attention --workdir=runs/mqar-la

    The same with additive linear attention, given the same convolutions. Two CPU cores, one to
    two minutes; accuracy far below (experiments/results/demo).
    """
    return _mqar_small(LinearAttentionConfig(num_heads=2, conv_size=4, chunk_size=16))


def _language_model(*mixers: MixerConfig) -> RunConfig:
    return RunConfig(
        model=ModelConfig(
            vocab_size=256,
            d_model=128,
            num_layers=4,
            layer_pattern=mixers,
            tie_embeddings=True,
        ),
        task=LanguageModelingConfig(seq_len=256, max_eval_windows=128),
        train=TrainConfig(
            num_steps=400,
            batch_size=8,
            eval_every_steps=100,
            checkpoint_every_steps=100,
            optimizer=OptimizerConfig(
                learning_rate=3e-3, min_learning_rate=3e-4, warmup_steps=40, weight_decay=0.01
            ),
        ),
    )


def language_modeling_small() -> RunConfig:
    """python -m experiments.main --preset=language_modeling/small --workdir=runs/lm

    A 1M-parameter DeltaNet on the bytes of Python's standard library. Two CPU cores, minutes;
    the number is in experiments/results/language_modeling.
    """
    return _language_model(DeltaNetConfig(num_heads=2))


def language_modeling_small_hybrid() -> RunConfig:
    """python -m experiments.main --preset=language_modeling/small-hybrid --workdir=runs/lm-hybrid

    DeltaNet and sliding-window attention alternating, otherwise as language_modeling/small.
    """
    return _language_model(DeltaNetConfig(num_heads=2), AttentionConfig(num_heads=2, window=64))


def _paper_run(
    model: ModelConfig, tokens: float, batch_tokens: int, warmup_tokens: float, parts: int
) -> RunConfig:
    """The paper's recipe: AdamW, cosine from and to 3e-5, contexts of 2048 tokens cut from
    documents one after another."""
    task = TokensConfig(vocab_size=model.vocab_size, seq_len=2048, concatenate=True)
    return RunConfig(
        model=model,
        task=task,
        train=TrainConfig(
            num_steps=round(tokens / batch_tokens),
            batch_size=batch_tokens // task.seq_len,
            accumulation_steps=parts,
            eval_every_steps=1000,
            checkpoint_every_steps=500,
            optimizer=OptimizerConfig(
                learning_rate=3e-4,
                min_learning_rate=3e-5,
                warmup_steps=round(warmup_tokens / batch_tokens),
                weight_decay=0.01,
            ),
        ),
    )


def deltanet_340m() -> RunConfig:
    """python -m experiments.main --preset=deltanet_340m --workdir=runs/340m --data=DIR

    15B tokens in batches of 0.5M, eight GPUs of 80 GiB, 32 sequences each (on n GPUs:
    `--accumulation_steps=8/n`). The paper: WikiText perplexity 28.24, LAMBADA 37.37. Not yet run
    by us: 20 hours of one H200 at the 207,397 tokens/s measured there (README.md, Training).
    """
    return _paper_run(models.deltanet_340m(), 15e9, 2**19, 0.5e9, 1)


def deltanet_1b3() -> RunConfig:
    """python -m experiments.main --preset=deltanet_1b3 --workdir=runs/1b3 --data=DIR

    100B tokens in batches of 2M, eight GPUs of 80 GiB with `--mesh_fsdp=8`, 16 sequences each at a
    time. The paper: WikiText perplexity 16.87, LAMBADA 12.21. Not yet run by us: 422 hours of one
    H200 at the 65,819 tokens/s measured there with these options (README.md, Training), 53 of eight
    if nothing were lost between them (two: 4 %).
    """
    return _paper_run(models.deltanet_1b3(), 100e9, 2**21, 1e9, 8)


def deltanet_1b3_swa() -> RunConfig:
    """python -m experiments.main --preset=deltanet_1b3_swa --workdir=runs/swa --data=DIR

    As deltanet_1b3, with sliding windows. The paper: WikiText perplexity 16.56, LAMBADA 11.74.
    435 hours of one H200 at the 63,908 tokens/s measured there.
    """
    return _paper_run(models.deltanet_1b3_swa(), 100e9, 2**21, 1e9, 8)


def deltanet_1b3_global() -> RunConfig:
    """python -m experiments.main --preset=deltanet_1b3_global --workdir=runs/glob --data=DIR

    As deltanet_1b3, with two global attention layers. The paper: WikiText perplexity 16.55, LAMBADA
    12.40. 414 hours of one H200 at the 67,029 tokens/s measured there.
    """
    return _paper_run(models.deltanet_1b3_global(), 100e9, 2**21, 1e9, 8)


def transformer_1b3() -> RunConfig:
    """python -m experiments.main --preset=transformer_1b3 --workdir=runs/tf --data=DIR

    As deltanet_1b3, with softmax attention. The paper: WikiText perplexity 16.85, LAMBADA 13.44.
    """
    return _paper_run(models.transformer_1b3(), 100e9, 2**21, 1e9, 8)


def deltanet_3b() -> RunConfig:
    """python -m experiments.main --preset=deltanet_3b --workdir=runs/3b --data=DIR

    1T tokens, with the paper's recipe for 1.3B: rate, batch and schedule are ours, the blog gives
    none. The blog's average over six tasks: 59.8. 9,604 hours of one H200 at the 28,924 tokens/s
    measured there, 8 sequences at a time.
    """
    return _paper_run(models.deltanet_3b(), 1e12, 2**21, 2e9, 16)


def _table_runs() -> Iterator[tuple[str, Callable[[], RunConfig]]]:
    """MODEL_SIZE, and for the variants of DeltaNet deltanet_SIZE_VARIANT: `main_table`'s models.

    python -m experiments.main --preset=mamba_340m --workdir=runs/mamba --data=train.npy

    Eight GPUs of 80 GiB, as deltanet_340m and deltanet_1b3. Perplexities of the paper (WikiText):
    340M: transformer 28.39, retnet 32.33, mamba 28.39, gla 28.65 (conv 29.47), deltanet no_conv
    29.08, swa 27.06, global 27.51, l1_elu 31.12, l2_elu 28.03, l2_relu 28.75. 1.3B: retnet 18.64,
    mamba 17.06, gla 17.22 (conv 17.25). Not yet run by us.
    """
    recipes = {"340m": (15e9, 2**19, 0.5e9, 1), "1b3": (100e9, 2**21, 1e9, 8)}
    for size, recipe in recipes.items():
        base = getattr(models, f"deltanet_{size}")()
        for name, model in models.main_table(base).items():
            family, *variant = name.split("_") if name.startswith("deltanet") else (name,)
            preset = "_".join([family, size, *variant])
            yield preset, functools.partial(_paper_run, model, *recipe)


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "mqar/small-delta_net": mqar_small_delta_net,
    "mqar/small-linear_attention": mqar_small_linear_attention,
    **SUITE_PRESETS,
    **dict(_table_runs()),
    "language_modeling/small": language_modeling_small,
    "language_modeling/small-hybrid": language_modeling_small_hybrid,
    **LM_SMALL_PRESETS,
    "deltanet_340m": deltanet_340m,
    "deltanet_1b3": deltanet_1b3,
    "deltanet_1b3_swa": deltanet_1b3_swa,
    "deltanet_1b3_global": deltanet_1b3_global,
    "transformer_1b3": transformer_1b3,
    "deltanet_3b": deltanet_3b,
}
