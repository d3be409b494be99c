# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""--dry_run=N: what a run would be on N devices, on a machine that has none of them.

Prints parameters, operations a token, where every array lives and the memory of a device; nothing
is allocated, compiled or written. The same numbers explain a run whose memory ran out.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from deltanet_jax import accounting
from deltanet_jax.sharding import path_name
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.memory import Memory, estimate
from experiments.run_config import RunConfig


def pretend(devices: int) -> None:
    """`devices` CPU devices stand in for the real ones. Call before anything uses a device."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def report(config: RunConfig, device_memory_gib: float | None) -> str:
    """The plan of a run, as text.

    Raises:
        ValueError: the mesh does not fit the devices or the model; or a step needs more than
            `device_memory_gib` (None: any amount will do).
    """
    trainer = Trainer(config.model, config.train)
    cost = accounting.cost(config.model, config.task.seq_len)
    memory = estimate(trainer, config.train, config.task.seq_len)
    tokens = config.train.batch_size * config.task.seq_len
    axes = ", ".join(f"{name} {size}" for name, size in trainer.mesh.shape.items())
    lines = [
        f"{cost.parameters:,} parameters, {cost.matmul_parameters:,} of them multiply every token",
        f"{cost.flops / 1e9:.3f} GFLOP a token, {cost.recomputed_flops / 1e9:.3f} more recomputed",
        f"{tokens:,} tokens a step, {tokens * config.train.num_steps / 1e9:.3f} billion in all",
        f"mesh of {trainer.mesh.size} devices: {axes}",
        "",
        "array | shape | part of a device",
    ]
    for path, x in jax.tree_util.tree_leaves_with_path(trainer.abstract_state.weights):
        part = x.sharding.shard_shape(x.shape)
        lines.append(f"{path_name(path)} | {_shape(x)} | {list(part)}")
    lines += ["", *_memory_lines(memory, "at most" if config.model.remat == "none" else "about")]
    least = _least(config, memory)
    if device_memory_gib is not None and least > device_memory_gib * 2**30:
        raise ValueError(
            f"device_memory_gib: the run needs {least / 2**30:.1f} GiB a device, "
            f"got {device_memory_gib:g}; " + "; ".join(_memory_lines(memory)[:-1])
        )
    return "\n".join(lines)


@contextlib.contextmanager
def explained_out_of_memory(config: RunConfig) -> Iterator[None]:
    """Device memory that runs out is a ValueError with what the run needs and what there is."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory = estimate(Trainer(config.model, config.train), config.train, config.task.seq_len)
        limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        has = "unknown" if limit is None else f"{limit / 2**30:.2f} GiB"
        raise ValueError(
            f"batch_size: device memory ran out; the run needs about {memory.total / 2**30:.2f} "
            f"GiB a device, JAX may use {has}; checkpoints are intact. Smaller: a larger "
            "accumulation_steps, remat. " + "; ".join(_memory_lines(memory)[:-1])
        ) from error


def _shape(x) -> str:
    return f"{list(x.shape)} {np.dtype(x.dtype).name}"


def _least(config: RunConfig, memory: Memory) -> int:
    """Bytes below which a device cannot hold the run."""
    if config.model.remat != "none":
        return memory.total
    model = config.model.replace(remat="products")
    return estimate(Trainer(model, config.train), config.train, config.task.seq_len).total


def _memory_lines(memory: Memory, word: str = "about") -> list[str]:
    parts = dataclasses.asdict(memory) | {f"a device in all, {word}": memory.total}
    return [f"{name} {size / 2**30:.2f} GiB" for name, size in parts.items()]
