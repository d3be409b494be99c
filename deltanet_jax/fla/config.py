# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""FLA's config.json <-> ModelConfig. Names, defaults and meaning are those of FLA 0.6.0.

Every option is read, known not to matter, or refused by name. Written configs are read again and
compared, so what FLA cannot express is refused too.
"""

import dataclasses
import math
from typing import Any

from deltanet_jax.layers.mlp import default_hidden_size
from deltanet_jax.mixers.attention import AttentionConfig
from deltanet_jax.mixers.base import MixerConfig
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNetConfig
from deltanet_jax.model import ModelConfig

# FLA's model_type -> the class that its config.json names.
MODEL_TYPES = {
    "delta_net": "DeltaNetForCausalLM",
    "gated_deltanet": "GatedDeltaNetForCausalLM",
    "transformer": "TransformerForCausalLM",
}
MAX_LAYERS, MAX_SIZE = 4096, 2**24

# What changes speed, memory, losses, bookkeeping or generation, but no logit.
IRRELEVANT = frozenset(
    """_name_or_path architectures attn_mode bos_token_id chunk_size chunk_size_feed_forward dtype
    eos_token_id fuse_cross_entropy fuse_linear_cross_entropy fuse_norm fuse_swiglu id2label
    is_encoder_decoder keys_to_ignore_at_inference label2id max_position_embeddings model_type
    output_attentions output_hidden_states pad_token_id problem_type return_dict torch_dtype
    transformers_version use_cache use_l2warp use_output_norm""".split()
)
# What we can do in one way only: option -> the values that mean it, FLA's default first.
FIXED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("swish",),
    "attnres_block_size": (None,),
    "elementwise_affine": (True,),
    # of earlier versions
    "share_conv_kernel": (False,),
    "use_rope": (False,),
    "use_elu": (False,),
}
FIXED_OF_TYPE: dict[str, dict[str, tuple[object, ...]]] = {
    "delta_net": {"use_beta": (True,)},
    "gated_deltanet": {"output_gate_activation": ("swish", "silu")},
    "transformer": {"qkv_bias": (False,), "qk_norm": (False,)},
}
ACTIVATIONS = {
    "silu": "silu",
    "relu": "relu",
    "elu": "elu_plus_one",
    "identity": "identity",
}
NORMS = {"l2": "l2", "sum": "l1"}
# What of our configs changes how, not what is computed (or training only).
HOW = frozenset(
    """embed_dropout init_std param_dtype compute_dtype remat scan_unroll chunk_size implementation
    residuals""".split()
)


class _Options:
    """An object of config.json whose options are taken one by one; what is left is refused."""

    def __init__(self, values: dict[str, Any], where: str):
        self._values, self._where = dict(values), where

    def refuse(self, name: str, wanted: str, got: object) -> None:
        raise ValueError(f"{self._where}: {name}: wanted {wanted}, got {got!r}")

    def whole(self, name: str, default: int | None, most: int = MAX_SIZE) -> int:
        value = self._values.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self.refuse(name, f"a whole number from 1 to {most}", value)
        return value

    def number(self, name: str, default: float) -> float:
        value = self._values.pop(name, default)
        kind = isinstance(value, int | float) and not isinstance(value, bool)
        if not kind or not 0 <= value <= 1e30:
            self.refuse(name, "a number from 0 to 1e30", value)
        return float(value)

    def choice(self, name: str, *choices: object) -> Any:
        """One of `choices`; the first is the default."""
        value = self._values.pop(name, choices[0])
        if not any(value is c or (isinstance(c, str) and value == c) for c in choices):
            self.refuse(name, " or ".join(map(repr, choices)), value)
        return value

    def given(self, name: str) -> bool:
        """Whether it is there and not None; None is taken."""
        if self._values.get(name) is None:
            self._values.pop(name, None)
            return False
        return True

    def layers(self, num_layers: int) -> list[int]:
        value = self._values.pop("layers", None)
        if not isinstance(value, list) or any(type(i) is not int for i in value):
            self.refuse("layers", "a list of layers' numbers", value)
        if len(set(value)) < len(value) or not all(0 <= i < num_layers for i in value):
            self.refuse("layers", f"different numbers from 0 to {num_layers - 1}", value)
        return value

    def specs(self) -> list["_Options"]:
        """The objects of `attn`: none, one, or a list."""
        value = self._values.pop("attn", None)
        value = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(one, dict) for one in value):
            self.refuse("attn", "an object or a list of them", value)
        return [_Options(one, f"{self._where}: attn") for one in value]

    def finish(self) -> None:
        if self._values:
            raise ValueError(f"{self._where}: options that are not known: {sorted(self._values)}")


def _size(options: _Options, name: str, exact: float) -> int:
    """A size that FLA makes by a factor. Raises ValueError unless it is whole."""
    size = round(exact)
    if not 1 <= size <= MAX_SIZE or not math.isclose(size, exact, rel_tol=1e-5):
        options.refuse(name, "a factor that makes a whole size", exact)
    return size


def _head(options: _Options, width: int, heads: int, name: str) -> int:
    if width % heads:
        options.refuse(name, f"a divisor of {width}", heads)
    return width // heads


def _attention(options: _Options, d_model: int, default_heads: int | None) -> AttentionConfig:
    heads = options.whole("num_heads", default_heads)
    kv_heads = options.whole("num_kv_heads", heads) if options.given("num_kv_heads") else heads
    window = options.whole("window_size", None) if options.given("window_size") else None
    base = options.number("rope_theta", 10_000.0)
    if not base > 0:
        options.refuse("rope_theta", "more than 0", base)
    return AttentionConfig(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_head(options, d_model, heads, "num_heads"),
        window=window,
        rope_base=base,
    )


def _conv_size(options: _Options) -> int:
    size = options.whole("conv_size", 4, 2**10)
    return size if options.choice("use_short_conv", True, False) else 0


def _delta_net(options: _Options, d_model: int) -> DeltaNetConfig:
    heads = options.whole("num_heads", 16)
    k_width = _size(options, "expand_k", d_model * options.number("expand_k", 1.0))
    v_width = _size(options, "expand_v", d_model * options.number("expand_v", 1.0))
    return DeltaNetConfig(
        num_heads=heads,
        head_k_dim=_head(options, k_width, heads, "num_heads"),
        head_v_dim=_head(options, v_width, heads, "num_heads"),
        conv_size=_conv_size(options),
        qk_activation=ACTIVATIONS[options.choice("qk_activation", *ACTIVATIONS)],
        qk_norm=NORMS[options.choice("qk_norm", *NORMS)],
        allow_neg_eigval=options.choice("allow_neg_eigval", False, True),
        output_gate=options.choice("use_gate", False, True),
    )


def _gated_delta_net(options: _Options, d_model: int) -> GatedDeltaNetConfig:
    del d_model  # the heads' width is free
    heads = options.whole("num_heads", 6)
    if options.given("num_v_heads"):
        v_heads = options.whole("num_v_heads", heads)
        if v_heads != heads:
            options.refuse("num_v_heads", f"num_heads = {heads} (no grouped values)", v_heads)
    k_dim = options.whole("head_dim", 256)
    return GatedDeltaNetConfig(
        num_heads=heads,
        head_k_dim=k_dim,
        head_v_dim=_size(options, "expand_v", k_dim * options.number("expand_v", 2.0)),
        conv_size=_conv_size(options),
        allow_neg_eigval=options.choice("allow_neg_eigval", False, True),
        output_gate=options.choice("use_gate", True, False),
    )


def _layers(options: _Options, kind: str, d_model: int, count: int) -> tuple[MixerConfig, ...]:
    """The mixer of every layer."""
    if kind == "transformer":
        return (_attention(options, d_model, 32),) * count
    mixer = {"delta_net": _delta_net, "gated_deltanet": _gated_delta_net}[kind](options, d_model)
    layers: list[MixerConfig] = [mixer] * count
    taken: set[int] = set()
    for spec in options.specs():
        numbers = spec.layers(count)
        if taken & set(numbers):
            spec.refuse("layers", "each layer once", sorted(taken & set(numbers)))
        taken |= set(numbers)
        attention = _attention(spec, d_model, None)
        spec.choice("qkv_bias", False)
        spec.finish()
        for number in numbers:
            layers[number] = attention
    return tuple(layers)


def shortest_period(layers: tuple[MixerConfig, ...]) -> tuple[MixerConfig, ...]:
    """The shortest pattern that, repeated, is `layers`."""
    count = len(layers)
    periods = (p for p in range(1, count + 1) if count % p == 0)
    return next(layers[:p] for p in periods if layers[:p] * (count // p) == layers)


def model_config(config: dict[str, Any], **changes: Any) -> ModelConfig:
    """The model that an FLA config.json describes; `changes` are further fields, like dtypes.

    Raises:
        ValueError: a model or option that we do not have; the message names it.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        raise ValueError(f"config.json: model_type: wanted one of {[*MODEL_TYPES]}, got {kind!r}")
    options = _Options({k: v for k, v in config.items() if k not in IRRELEVANT}, "config.json")
    for name, values in (FIXED | FIXED_OF_TYPE[kind]).items():
        options.choice(name, *values)
    d_model = options.whole("hidden_size", 2048)
    default_layers = 21 if kind == "gated_deltanet" else 24
    count = options.whole("num_hidden_layers", default_layers, MAX_LAYERS)
    ratio = options.number("hidden_ratio", 4.0) if options.given("hidden_ratio") else 4.0
    if options.given("intermediate_size"):
        hidden = options.whole("intermediate_size", None)
    else:
        hidden = 256 * -(-int(d_model * ratio * 2 / 3) // 256)
        if not 1 <= hidden <= MAX_SIZE:
            options.refuse("hidden_ratio", f"a width from 1 to {MAX_SIZE}", ratio)
    layers = _layers(options, kind, d_model, count)
    model = ModelConfig(
        vocab_size=options.whole("vocab_size", 32_000),
        d_model=d_model,
        num_layers=count,
        layer_pattern=shortest_period(layers),
        mlp_hidden_size=hidden,
        tie_embeddings=options.choice("tie_word_embeddings", False, True),
        norm_eps=options.number("norm_eps", 1e-6),
        init_std=options.number("initializer_range", 0.02),
        **changes,
    )
    options.finish()
    return model


def fla_config(model: ModelConfig, seq_len: int) -> dict[str, Any]:
    """FLA's config.json of `model`; `seq_len` is the context it names (FLA computes any).

    Raises:
        ValueError: something that FLA's models do not have; the message names it.
    """
    attention = [m for m in model.layer_pattern if isinstance(m, AttentionConfig)]
    others = [m for m in model.layer_pattern if not isinstance(m, AttentionConfig)]
    kinds = {"delta_net": _delta_net_options, "gated_delta_net": _gated_options}
    for mixer in others:
        if mixer.kind not in kinds:
            known = ["attention", *kinds]
            raise ValueError(f"layer_pattern: wanted mixers of {known}, got {mixer.kind!r}")
    if others:
        options = kinds[others[0].kind](others[0], model.d_model)
        options |= {"attn": _attn(model) if attention else None}
    else:
        options = {"model_type": "transformer", **_attention_options(attention[0])}
    hidden = model.mlp_hidden_size
    config = {
        "architectures": [MODEL_TYPES[options["model_type"]]],
        **options,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.num_layers,
        "intermediate_size": default_hidden_size(model.d_model) if hidden is None else hidden,
        "hidden_act": "swish",
        "norm_eps": model.norm_eps,
        "initializer_range": model.init_std,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_embeddings,
        "max_position_embeddings": seq_len,
        "dtype": model.param_dtype,
    }
    if differing := differences(model, model_config(config)):
        raise ValueError(f"{'; '.join(differing)}: FLA's models have no such option")
    return config


def _factor(size: int, width: int) -> float:
    """size / width, from which FLA makes `size` again: the whole part of its product with width."""
    factor = size / width
    return factor if int(width * factor) == size else math.nextafter(factor, math.inf)


def _delta_net_options(mixer: DeltaNetConfig, d_model: int) -> dict[str, Any]:
    k, v = mixer.head_sizes(d_model)
    fla_name = {ours: theirs for theirs, ours in (ACTIVATIONS | NORMS).items()}
    return {
        "model_type": "delta_net",
        "num_heads": mixer.num_heads,
        "expand_k": _factor(mixer.num_heads * k, d_model),
        "expand_v": _factor(mixer.num_heads * v, d_model),
        "qk_activation": fla_name[mixer.qk_activation],
        "qk_norm": fla_name[mixer.qk_norm],
        **_shared_options(mixer),
    }


def _gated_options(mixer: GatedDeltaNetConfig, d_model: int) -> dict[str, Any]:
    k, v = mixer.head_sizes(d_model)
    return {
        "model_type": "gated_deltanet",
        "num_heads": mixer.num_heads,
        "head_dim": k,
        "expand_v": _factor(v, k),
        **_shared_options(mixer),
    }


def _shared_options(mixer: DeltaNetConfig) -> dict[str, Any]:
    return {
        "use_short_conv": mixer.conv_size > 0,
        "conv_size": mixer.conv_size or 4,
        "allow_neg_eigval": mixer.allow_neg_eigval,
        "use_gate": mixer.output_gate,
    }


def _attention_options(mixer: AttentionConfig) -> dict[str, Any]:
    return {
        "num_heads": mixer.num_heads,
        "num_kv_heads": mixer.num_kv_heads or mixer.num_heads,
        "qkv_bias": False,
        "window_size": mixer.window,
        "rope_theta": mixer.rope_base,
    }


def _attn(model: ModelConfig) -> list[dict[str, Any]] | dict[str, Any]:
    """FLA's `attn`: an object for each kind of softmax attention, alone if there is one."""
    layers: dict[AttentionConfig, list[int]] = {}
    for i in range(model.num_layers):
        mixer = model.layer_pattern[i % len(model.layer_pattern)]
        if isinstance(mixer, AttentionConfig):
            layers.setdefault(mixer, []).append(i)
    specs = [{"layers": numbers, **_attention_options(m)} for m, numbers in layers.items()]
    return specs[0] if len(specs) == 1 else specs


def differences(a: ModelConfig, b: ModelConfig) -> list[str]:
    """Fields by which the two compute something else, like "num_heads was 2, is 4"."""
    old, new = _what(a), _what(b)
    return [f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in old if old[k] != new.get(k)]


def _what(model: ModelConfig) -> dict[str, Any]:
    """All that decides a logit, defaults written out; layers by number."""
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    if fields["mlp_hidden_size"] is None:
        fields["mlp_hidden_size"] = default_hidden_size(model.d_model)
    pattern = fields.pop("layer_pattern")
    for i in range(model.num_layers):
        for name, value in _mixer_fields(pattern[i % len(pattern)], model.d_model).items():
            fields[f"layer {i}: {name}"] = value
    return {k: v for k, v in fields.items() if k.split(": ")[-1] not in HOW}


def _mixer_fields(mixer: MixerConfig, d_model: int) -> dict[str, Any]:
    fields = mixer.to_dict()
    if isinstance(mixer, AttentionConfig):
        fields["num_kv_heads"] = mixer.num_kv_heads or mixer.num_heads
        fields["head_dim"] = mixer.head_dim or d_model // mixer.num_heads
    else:
        fields["head_k_dim"], fields["head_v_dim"] = mixer.head_sizes(d_model)
    return fields
