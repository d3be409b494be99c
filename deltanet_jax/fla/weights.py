# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Which of our weights is which tensor of an FLA model, and how each is laid out.

PyTorch keeps the matrix of x -> x W as W^T, and a depthwise convolution's taps as [D, 1, W] with
the oldest token's first. Names are those of FLA 0.6.0; "attn.norm" is what it called "attn.o_norm"
before.
"""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltanet_jax.fla.folder import Folder, Spec
from deltanet_jax.model import LanguageModel, ModelConfig
from deltanet_jax.sharding import path_name

# Our path (within a block, or within the model) -> FLA's name (after "model.layers.N.", or whole).
BLOCK = (
    (r"mixer_norm/scale", "attn_norm.weight"),
    (r"mlp_norm/scale", "mlp_norm.weight"),
    (r"mlp/(\w+_proj)/kernel", r"mlp.\1.weight"),
    (r"mixer/qkv/(q|k|v)_heads/proj/kernel", r"attn.\1_proj.weight"),
    (r"mixer/qkv/(q|k|v)_heads/conv/weight", r"attn.\1_conv1d.weight"),
    (r"mixer/(q|k|v)_proj/kernel", r"attn.\1_proj.weight"),
    (r"mixer/beta_proj/kernel", "attn.b_proj.weight"),
    (r"mixer/decay_proj/kernel", "attn.a_proj.weight"),
    (r"mixer/gate_proj/kernel", "attn.g_proj.weight"),
    (r"mixer/out_proj/kernel", "attn.o_proj.weight"),
    (r"mixer/out_norm/scale", "attn.o_norm.weight"),
    (r"mixer/(A_log|dt_bias)", r"attn.\1"),
)
WHOLE = (
    (r"embed/embedding", "model.embeddings.weight"),
    (r"final_norm/scale", "model.norm.weight"),
    (r"head/kernel", "lm_head.weight"),
)
EMBEDDING, HEAD = "model.embeddings.weight", "lm_head.weight"
NEW_NAME, OLD_NAME = ".attn.o_norm.weight", ".attn.norm.weight"


class Place(NamedTuple):
    """Where a tensor lives among our weights.

    Attributes:
        path: of the weight, like "period/0/mixer/out_proj/kernel".
        repetition: its index on the weight's leading axis; None: it is the whole weight.
        shape: of the tensor, as FLA has it.
    """

    path: str
    repetition: int | None
    shape: tuple[int, ...]


@functools.cache
def _abstract_weights(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    model = nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {path_name(path): leaf for path, leaf in leaves}


def _rename(path: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in table:
        if match := re.fullmatch(pattern, path):
            return match.expand(name)
    raise ValueError(f"layer_pattern: FLA's models have nothing like the weight {path}")


def _to_fla(path: str, weight: np.ndarray) -> np.ndarray:
    if path.endswith("kernel"):
        return weight.T
    return weight[::-1].T[:, None] if path.endswith("conv/weight") else weight


def _from_fla(path: str, tensor: np.ndarray) -> np.ndarray:
    if path.endswith("kernel"):
        return tensor.T
    return tensor[:, 0].T[::-1] if path.endswith("conv/weight") else tensor


def places(config: ModelConfig) -> dict[str, Place]:
    """Every tensor of FLA's model, by name, in the order of its layers.

    Raises:
        ValueError: a weight that FLA's models do not have.
    """
    found: dict[tuple[int, str], Place] = {}
    for path, leaf in _abstract_weights(config).items():
        shape = leaf.shape
        if not path.startswith("period/"):
            name = _rename(path, WHOLE)
            layer = -1 if name == EMBEDDING else config.num_layers
            # A view of one element, to know how a shape is turned without the numbers.
            turned = _to_fla(path, np.broadcast_to(np.float32(0), shape)).shape
            found[layer, name] = Place(path, None, turned)
            continue
        _, position, inner = path.split("/", 2)
        name = _rename(inner, BLOCK)
        turned = _to_fla(path, np.broadcast_to(np.float32(0), shape[1:])).shape
        for repetition in range(shape[0]):
            layer = repetition * len(config.layer_pattern) + int(position)
            place = Place(path, repetition, turned)
            found[layer, f"model.layers.{layer}.{name}"] = place
    return {name: found[layer, name] for layer, name in sorted(found)}


def match(config: ModelConfig, specs: dict[str, Spec]) -> dict[str, str]:
    """FLA's name -> the name in the folder, for every tensor of the model.

    Raises:
        ValueError: tensors missing, unexpected or of another shape; the message has all of them.
    """
    if config.num_layers > len(specs):  # whose names alone would take long to make
        raise ValueError(f"tensors: wanted those of {config.num_layers} layers, got {len(specs)}")
    wanted = places(config)
    names = {
        name: name.replace(NEW_NAME, OLD_NAME)
        if name not in specs and name.replace(NEW_NAME, OLD_NAME) in specs
        else name
        for name in wanted
    }
    missing = sorted(name for name, found in names.items() if found not in specs)
    spare = {HEAD} if config.tie_embeddings else set()
    unexpected = sorted(specs.keys() - set(names.values()) - spare)
    wrong = [
        f"{found} is {list(specs[found].shape)}, wanted {list(wanted[name].shape)}"
        for name, found in names.items()
        if found in specs and specs[found].shape != wanted[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    if any(problems.values()):
        parts = (f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise ValueError("tensors: " + "; ".join(parts))
    return names


def widest_dtype(specs: dict[str, Spec]) -> str:
    """The dtype that holds every tensor exactly."""
    return str(jnp.result_type(*{spec.dtype for spec in specs.values()}))


def read_weights(config: ModelConfig, folder: Folder) -> dict:
    """The model's weights, nested dicts of NumPy arrays in `config.param_dtype`.

    Raises:
        ValueError: like `match`; param_dtype does not hold a tensor exactly; tied embeddings beside
            a head that is not them.
    """
    names = match(config, folder.specs)
    dtype = jnp.dtype(config.param_dtype)
    widest = jnp.promote_types(widest_dtype(folder.specs), dtype)
    if widest != dtype:
        raise ValueError(
            f"param_dtype: wanted one that holds the folder's tensors exactly, like {widest}, got "
            f"{dtype}"
        )
    if config.tie_embeddings and HEAD in folder.specs:
        head, embedding = folder.read(HEAD), folder.read(names[EMBEDDING])
        if (head.dtype, head.tobytes()) != (embedding.dtype, embedding.tobytes()):
            raise ValueError(
                f"tie_word_embeddings: wanted {HEAD} to be {EMBEDDING}, got another one"
            )
    abstract = _abstract_weights(config)
    flat = {path: np.empty(leaf.shape, dtype) for path, leaf in abstract.items()}
    for name, place in places(config).items():
        tensor = _from_fla(place.path, folder.read(names[name])).astype(dtype)
        flat[place.path][... if place.repetition is None else place.repetition] = tensor
    return _nested(flat)


def _nested(flat: dict[str, np.ndarray]) -> dict:
    nested: dict = {}
    for path, array in flat.items():
        *parents, last = (int(part) if part.isdecimal() else part for part in path.split("/"))
        inner = nested
        for part in parents:
            inner = inner.setdefault(part, {})
        inner[last] = array
    return nested


def tensor(weights: dict, place: Place, dtype: str) -> np.ndarray:
    """The tensor of FLA's model at `place`, rounded to `dtype`; `weights` are NumPy arrays."""
    array = weights
    for part in place.path.split("/"):
        array = array[int(part) if part.isdecimal() else part]
    array = array if place.repetition is None else array[place.repetition]
    return _to_fla(place.path, array).astype(jnp.dtype(dtype))
