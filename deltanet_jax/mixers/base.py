# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The contract of token mixers.

A mixer is an `nnx.Module` made as `Module(config, context, rngs=rngs)` and called as

    y, new_state = mixer(x, segment_ids=segment_ids, state=state)

    x, y         [B, T, D] in the compute dtype; y_t depends on x_1..x_t only. Nothing but linear
                 maps read x's numbers (decoder.py joins them, and hands their outputs in as x), and
                 y is what `out_proj` gives (decoder.py lets it follow); but with a token shift.
    segment_ids  [B, T] integers or None; a change of id is a boundary that nothing crosses.
    state        None: start from nothing and return None (training).
                 Or what `mixer.init_state(batch_size, max_length)` or an earlier call returned:
                 continue there (any T >= 1, so prompts are read in parallel and decoding is T = 1).
                 It continues the row's first segment and afterwards belongs to its last.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from deltanet_jax.config import Config

READ_OUT = "read_out"
ARGUMENTS = "operator_arguments"


class Equations(NamedTuple):
    """What a mixer computes, a head, for the table of all mixers; S_t is [V, K].

    Attributes:
        recurrence: how the memory goes on.
        read_out: what a token gets from it.
        parallel: how training computes both.
        source: paper.
    """

    recurrence: str
    read_out: str
    parallel: str
    source: str


@dataclasses.dataclass(frozen=True)
class MixerConfig(Config):
    """Base of mixer configs; `kind` names the mixer in JSON and in the registry."""

    family: ClassVar[bool] = True
    equations: ClassVar[Equations]

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """Operations a token of a training step beside those with weights, mean over a sequence."""
        raise NotImplementedError(f"{type(self).__name__}.memory_flops")

    def kernel_residual_bytes(
        self, d_model: int, rows: int, columns: int, arguments_kept: bool
    ) -> int:
        """Bytes a layer that GPU kernels keep for the backward pass and other implementations do
        not; `arguments_kept`: the operator's arguments are kept anyway."""
        del d_model, rows, columns, arguments_kept
        return 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.family = False


@dataclasses.dataclass(frozen=True)
class Context:
    """What a mixer needs to know of the model around it.

    Attributes:
        d_model: width of the residual stream.
        init_std: standard deviation of initial weights.
        out_init_std: the same for the map back into the residual stream.
        norm_eps: epsilon of RMSNorm.
        dtype, param_dtype: of computation and of stored weights.
    """

    d_model: int
    init_std: float
    out_init_std: float
    norm_eps: float
    dtype: jax.typing.DTypeLike
    param_dtype: jax.typing.DTypeLike

    def kinds(self) -> dict[str, jax.typing.DTypeLike]:
        """The two dtypes, as keyword arguments of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


def head_dim(width: int | float, num_heads: int, given: int | None, name: str) -> int:
    """The head size given, or width / num_heads. Raises ValueError if that isn't whole."""
    if given is not None:
        return given
    if width % num_heads:
        raise ValueError(
            f"{name}: wanted a size, or num_heads dividing the heads' width {width:g}; got "
            f"num_heads = {num_heads}"
        )
    return int(width // num_heads)


def arguments(*xs: jax.Array) -> tuple[jax.Array, ...]:
    """An operator's queries, keys and values, under the name by which rematerialisation may keep
    them: what comes after the projections, convolutions above all, is then not computed again."""
    return checkpoint_name(xs, ARGUMENTS)


def read_out(o: jax.Array) -> jax.Array:
    """`o`, an operator's output, under the name by which rematerialisation keeps it."""
    return checkpoint_name(o, READ_OUT)
