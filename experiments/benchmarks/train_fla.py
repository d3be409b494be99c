# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The peer of train.py: FLA's 1.3B DeltaNet in PyTorch, as its users train it.

bfloat16 or float32 parameters (the latter under autocast), fused AdamW, fused cross-entropy, no
recomputation. Called by train.py with one case; prints one JSON line. Needs torch and FLA.
"""

import json
import time

import numpy as np
import torch
from absl import flags
from fla.models import DeltaNetConfig, DeltaNetForCausalLM

from deltanet_jax import accounting
from deltanet_jax.presets import deltanet_1b3
from experiments.benchmarks.flags import define_train_benchmark_flags
from experiments.benchmarks.train import WARM_UP, Case, make_row
from experiments.command import run
from experiments.tasks.tokens.task import TokensConfig


def time_fla(case: Case) -> dict[str, object]:
    """One row."""
    start = time.perf_counter()
    config = DeltaNetConfig(
        hidden_size=2048,
        num_hidden_layers=24,
        num_heads=16,
        vocab_size=32_000,
        max_position_embeddings=case.columns,
        use_cache=False,
        fuse_cross_entropy=True,
    )
    dtype = getattr(torch, case.param_dtype)
    model = DeltaNetForCausalLM(config).to("cuda", dtype).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    task = TokensConfig(vocab_size=32_000, seq_len=case.columns).make()
    data = iter(task.train_dataset(case.rows))
    seconds, losses, last, pending = [], [], 0.0, None
    for step in range(WARM_UP + case.steps + 1):
        for group in optimizer.param_groups:  # the warm-up of train.py
            group["lr"] = 3e-4 * min(1.0, step / 10)
        ids = torch.from_numpy(np.ascontiguousarray(next(data)["inputs"])).long()
        ids = ids.cuda(non_blocking=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.float32):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if pending is not None:
            losses.append(pending.item())
            now = time.perf_counter()
            if step == 1:
                first = now - start
            if step > WARM_UP:
                seconds.append(now - last)
            last = now
        pending = loss.detach()
    return make_row(
        case,
        seconds,
        losses,
        peak_flops=accounting.PEAK_FLOPS.get(torch.cuda.get_device_name()),
        first_step_s=first,
        peak_memory_bytes=torch.cuda.max_memory_allocated(),
        flops_per_token=accounting.cost(deltanet_1b3(), case.columns).flops,
        parameters=sum(p.numel() for p in model.parameters()),
    )


def main(argv: list[str]) -> None:
    del argv
    print(json.dumps(time_fla(Case(**json.loads(flags.FLAGS.case)))))


if __name__ == "__main__":
    define_train_benchmark_flags()
    run(main)
