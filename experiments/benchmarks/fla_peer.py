# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""FLA's side of fla_logits.py: its models, random or from a folder, and their logits on a GPU.

Needs torch, transformers and flash-linear-attention. Triton chooses among dozens of tilings of each
of FLA's kernels at their first call, which takes minutes; here nothing is timed, and the first
tiling of each is taken. Softmax layers run flash-attn where it is there, and PyTorch's attention
where it is not, and in float32, which flash-attn refuses.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from deltanet_jax.fla.config import MODEL_TYPES
from deltanet_jax.fla.folder import read_config

MODES = {"bfloat16": "chunk", "float32": "fused_recurrent"}  # of FLA's recurrent layers


@functools.cache
def fla_models() -> Any:
    """The package fla.models, set up as the file says. Raises ImportError."""
    import torch
    import triton

    autotune = triton.autotune

    def untuned(configs, *args, **kwargs):
        return autotune([*configs][:1], *args, **kwargs)

    triton.autotune = untuned
    try:
        import fla.layers.attn
        import fla.models
    finally:
        triton.autotune = autotune
    flash = getattr(fla.layers.attn, "flash_attn_func", None)

    def attention(q, k, v, *, causal: bool, window_size: tuple[int, int]):
        """flash_attn_func: [B, T, H, D]; of `window_size` tokens before and after, -1 is all."""
        if flash is not None and q.dtype == torch.bfloat16:
            return flash(q, k, v, causal=causal, window_size=window_size)
        if not causal or window_size[1] > 0:
            raise ValueError(f"window_size: wanted causal attention, got {causal}, {window_size}")
        position = torch.arange(q.shape[1], device=q.device)
        distance = position[:, None] - position
        seen = distance >= 0
        if window_size[0] >= 0:
            seen &= distance <= window_size[0]
        output = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=seen, enable_gqa=True
        )
        return output.transpose(1, 2)

    fla.layers.attn.flash_attn_func = attention
    return fla.models


def _cast(model: Any, dtype: str) -> None:
    """Parameters alone: FLA makes what rotates queries from a buffer that must stay float32."""
    import torch

    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))


def save_random(name: str, options: dict[str, Any], folder: Path) -> None:
    """Saves a model with random bfloat16 weights.

    Args:
        name: of FLA's classes, without Config and ForCausalLM.
        options: of its config.
        folder: to save in.
    """
    import torch

    models = fla_models()
    torch.manual_seed(0)
    config = getattr(models, f"{name}Config")(**options)
    with torch.device("cuda"):
        model = getattr(models, f"{name}ForCausalLM")(config)
    _cast(model, "bfloat16")
    model.save_pretrained(folder)


def _load(folder: Path) -> Any:
    """FLA's model in a folder. Raises ValueError unless it has a place for every tensor of it, and
    the other way around."""
    name = MODEL_TYPES[read_config(folder)["model_type"]]
    model, info = getattr(fla_models(), name).from_pretrained(folder, output_loading_info=True)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    problems = {key: sorted(map(str, set(names) - tied)) for key, names in info.items() if names}
    if any(problems.values()):
        raise ValueError(f"{folder}: wanted FLA's tensors, got {problems}")
    if tied and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise ValueError(f"{folder}: wanted the embeddings to be FLA's head, got another one")
    return model.to("cuda").eval()


def fla_logits(folder: Path, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """FLA's logits of `tokens` in float32 and in bfloat16.

    Args:
        folder: of a model in Hugging Face's format.
        tokens: [B, T] int32.
    Returns:
        "float32", "bfloat16": what was computed in, weights too; [B, T, vocabulary] float32.
    Raises:
        ImportError: a package that the model needs is not there.
        ValueError: FLA does not take the folder's tensors for those of its model.
    """
    import torch

    model = _load(folder)
    ids = torch.from_numpy(tokens).long().cuda()
    found = {}
    for dtype in ("float32", "bfloat16"):  # rounding last
        _cast(model, dtype)
        for module in model.modules():
            if getattr(module, "mode", None) in MODES.values():
                module.mode = MODES[dtype]  # FLA's chunkwise kernels refuse float32
        with torch.no_grad():
            found[dtype] = model(ids, use_cache=False).logits.float().cpu().numpy()
    return found
