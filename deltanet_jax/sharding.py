# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Where arrays live: one mesh, one table of weights, one table of logical axes.

Change a row here and nothing else to shard differently. Weights are named by the end of their
path; every weight must have a row, so that a new layer cannot be replicated by oversight.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deltanet_jax.config import Config

MESH_AXES = ("data", "fsdp", "tensor", "sequence")
ROWS = ("data", "fsdp")  # rows of a batch are spread over both
SEQUENCE = "sequence"
BATCH_SPEC = P(ROWS, SEQUENCE)

# Logical axis -> mesh axis. Axes that are not named stay whole.
LOGICAL_AXES = {"vocab": "tensor", "heads": "tensor", "hidden": "tensor", "embed": "fsdp"}

# End of a weight's path -> its logical axes, without the layer axis that `period` weights have.
WEIGHTS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embed/embedding", ("vocab", "embed")),
    (r"filter/layers/\d/kernel", (None, None)),
    (r"filter/(frequency|skip)", (None,)),
    (r"head/kernel", ("embed", "vocab")),
    (r"(q|k|v)_heads/proj/kernel", ("embed", "heads")),
    (r"(q|k|v|r|gate|in)_proj/kernel", ("embed", "heads")),
    (r"mlp/(gate|up)_proj/kernel", ("embed", "hidden")),
    (r"mlp/down_proj/kernel", ("hidden", "embed")),
    (r"(beta|decay|decay_down)_proj/kernel", ("embed", None)),
    (r"gate_proj/layers/0/kernel", ("embed", None)),
    (r"gate_proj/layers/1/kernel", (None, "heads")),
    (r"(decay_up|dt)_proj/kernel", (None, "heads")),
    (r"controls_proj/kernel", ("heads", None)),
    (r"decay_bias|conv_bias|skip", ("heads",)),
    (r"A_log|dt_bias|log_decay_rate|bonus|mix_[rkv]", (None,)),
    (r"out_proj/kernel", ("heads", "embed")),
    (r"bottleneck/\w+_proj/kernel", ("embed", None)),
    (r"conv/weight", (None, "heads")),
    (r"(\w+_norm)/(scale|bias)", (None,)),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig(Config):
    """How many ways each mesh axis splits; their product is the number of devices.

    Attributes:
        data: replicas of the weights, each with its part of the batch; -1 is whatever is left.
        fsdp: parts of the weights, each with its part of the batch.
        tensor: parts of the heads, hidden features and vocabulary.
        sequence: pieces of every sequence.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def __post_init__(self):
        for name in MESH_AXES:
            size = getattr(self, name)
            if size < 1 and not (name == "data" and size == -1):
                allowed = "at least 1 or -1" if name == "data" else "at least 1"
                raise ValueError(f"mesh_{name}: wanted {allowed}, got {size}")


def over_mesh(operator: Callable, sharded: Callable) -> Callable:
    """`operator`, or `sharded` in its place where the current mesh has several devices.

    For operators that XLA cannot cut up itself (kernels, and the recurrence over a sequence).
    `sharded` is given over which mesh axes rows, heads and sequence are spread, as
    `delta_rule_sharded` takes it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return operator
    heads = [LOGICAL_AXES["heads"]]
    return functools.partial(sharded, mesh=mesh, rows=ROWS, sequence=SEQUENCE, heads=heads)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (all by default). Raises ValueError if the sizes do not fit."""
    devices = jax.devices() if devices is None else list(devices)
    rest = config.fsdp * config.tensor * config.sequence
    data = len(devices) // rest if config.data == -1 else config.data
    if data * rest != len(devices):
        raise ValueError(
            f"mesh_data: wanted mesh_data * mesh_fsdp * mesh_tensor * mesh_sequence = "
            f"{len(devices)} devices, got "
            f"{config.data} * {config.fsdp} * {config.tensor} * {config.sequence}"
        )
    sizes = (data, config.fsdp, config.tensor, config.sequence)
    return jax.make_mesh(sizes, MESH_AXES, (AxisType.Auto,) * 4, devices=devices)


def path_name(path: tuple) -> str:
    """A pytree path as "period/0/mixer/out_proj/kernel"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def weight_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The partition of one weight.

    Raises:
        ValueError: no row of WEIGHTS fits `name`, or an axis does not divide by its mesh axis.
    """
    rows = [axes for pattern, axes in WEIGHTS if re.search(rf"(^|/)({pattern})$", name)]
    if not rows:
        raise ValueError(f"sharding: no row of WEIGHTS in deltanet_jax/sharding.py fits {name!r}")
    logical = rows[0]
    logical = (None,) * (len(shape) - len(logical)) + logical  # the layer axis stays whole
    axes = [None if axis is None else LOGICAL_AXES[axis] for axis in logical]
    for size, axis, what in zip(shape, axes, logical, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(
                f"mesh_{axis}: wanted a divisor of {what} = {size} of weight {name!r}, "
                f"got {mesh.shape[axis]}"
            )
    return P(*axes)


def weight_shardings(abstract_weights: dict, mesh: Mesh) -> dict:
    """The sharding of every weight, by the table."""

    def sharding(path, x):
        return NamedSharding(mesh, weight_spec(path_name(path), x.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, abstract_weights)


def batch_ways(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are spread."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def check_batch_size(batch_size: int, accumulation_steps: int, mesh: Mesh) -> None:
    """Raises ValueError unless every part of the batch spreads evenly over the mesh."""
    ways = batch_ways(mesh) * accumulation_steps
    if batch_size % ways:
        raise ValueError(
            "batch_size: wanted a multiple of mesh_data * mesh_fsdp * accumulation_steps = "
            f"{ways}, got {batch_size}"
        )
