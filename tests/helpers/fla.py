# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""FLA's models written out from their definition: names, shapes, and logits in float64 NumPy.

Independent of the library; configs are plain dicts as in config.json.
"""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

SMALL = {"vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "norm_eps": 1e-5}
ATTENTION = {"num_heads": 4, "num_kv_heads": 2, "window_size": 5, "rope_theta": 100.0}
CONFIGS = {
    "delta_net": SMALL
    | {"model_type": "delta_net", "num_hidden_layers": 2, "num_heads": 2, "expand_v": 2.0},
    "gated_deltanet": SMALL
    | {"model_type": "gated_deltanet", "num_hidden_layers": 2, "num_heads": 3, "head_dim": 4},
    "transformer": SMALL
    | {"model_type": "transformer", "num_hidden_layers": 2, "tie_word_embeddings": False}
    | ATTENTION,
    "hybrid": SMALL
    | {
        "model_type": "delta_net",
        "num_hidden_layers": 2,
        "num_heads": 2,
        "expand_k": 0.5,
        "use_gate": True,
        "conv_size": 3,
        "qk_activation": "elu",
        "qk_norm": "sum",
        "allow_neg_eigval": True,
        "tie_word_embeddings": True,
        "attn": {"layers": [1], **ATTENTION},
    },
    "no_conv": SMALL
    | {"model_type": "delta_net", "num_hidden_layers": 1, "num_heads": 2, "use_short_conv": False},
}


def attention_of(config, layer):
    """The softmax attention of a layer, or None."""
    if config["model_type"] == "transformer":
        return config
    specs = config.get("attn") or []
    for spec in specs if isinstance(specs, list) else [specs]:
        if layer in spec["layers"]:
            return spec
    return None


def sizes(config):
    """Heads, K and V of the recurrent layers."""
    heads, width = config["num_heads"], config["hidden_size"]
    if config["model_type"] == "gated_deltanet":
        return heads, config["head_dim"], int(config["head_dim"] * config.get("expand_v", 2.0))
    factors = (config.get(name, 1.0) for name in ("expand_k", "expand_v"))
    return heads, *(int(width * factor) // heads for factor in factors)


def shapes(config):
    """Every tensor's shape, by FLA's name."""
    width, hidden, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    found = {"model.embeddings.weight": (vocab, width)}
    for layer in range(config["num_hidden_layers"]):
        block = {"attn_norm.weight": (width,), "mlp_norm.weight": (width,)}
        block |= {f"mlp.{name}_proj.weight": (hidden, width) for name in ("gate", "up")}
        block["mlp.down_proj.weight"] = (width, hidden)
        if (spec := attention_of(config, layer)) is not None:
            size = width // spec["num_heads"]
            kv = size * spec.get("num_kv_heads", spec["num_heads"])
            outs = {"q": width, "k": kv, "v": kv, "o": width}
            block |= {f"attn.{name}_proj.weight": (out, width) for name, out in outs.items()}
        else:
            heads, k, v = sizes(config)
            outs = {"q": heads * k, "k": heads * k, "v": heads * v, "b": heads}
            gated = config["model_type"] == "gated_deltanet"
            if gated:
                outs["a"] = heads
                block |= {"attn.A_log": (heads,), "attn.dt_bias": (heads,)}
            if config.get("use_gate", gated):
                outs["g"] = heads * v
            block |= {f"attn.{name}_proj.weight": (out, width) for name, out in outs.items()}
            if config.get("use_short_conv", True):
                taps = config.get("conv_size", 4)
                block |= {f"attn.{n}_conv1d.weight": (outs[n], 1, taps) for n in "qkv"}
            block["attn.o_norm.weight"] = (v,)
            block["attn.o_proj.weight"] = (width, heads * v)
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    found["model.norm.weight"] = (width,)
    if not config.get("tie_word_embeddings", False):
        found["lm_head.weight"] = (vocab, width)
    return found


def random_tensors(config, seed=0):
    """Large random numbers, exact in bfloat16; what FLA keeps in float32 is float32."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        values = 0.4 * rng.standard_normal(shape) + ("norm.weight" in name)
        rounded = values.astype(ml_dtypes.bfloat16)
        kept = name.endswith(("A_log", "dt_bias", "o_norm.weight"))
        tensors[name] = rounded.astype(np.float32) if kept else rounded
    return tensors


def write_folder(folder, config, tensors):
    """A new folder in Hugging Face's format; returns it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def convolve(x, weight):
    """y_t = sum_i weight[:, 0, i] x_{t - (W - 1) + i}, as torch's Conv1d on a left-padded input."""
    width = weight.shape[-1]
    padded = np.concatenate([np.zeros((width - 1, x.shape[1])), x])
    return sum(weight[:, 0, i] * padded[i : i + len(x)] for i in range(width))


ACTIVATIONS = {
    "silu": silu,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))),
    "identity": lambda x: x,
}


def recurrent(config, w, x):
    """DeltaNet's or Gated DeltaNet's layer on one sequence, token by token."""
    heads, k_dim, v_dim = sizes(config)
    activations = dict.fromkeys("qk", config.get("qk_activation", "silu")) | {"v": "silu"}

    def made(name, size):
        y = x @ w[f"{name}_proj.weight"].T
        if config.get("use_short_conv", True):
            y = convolve(y, w[f"{name}_conv1d.weight"])
        return ACTIVATIONS[activations[name]](y).reshape(len(x), heads, size)

    q, k, v = made("q", k_dim), made("k", k_dim), made("v", v_dim)
    if config.get("qk_norm", "l2") == "l2":
        q, k = (y / np.sqrt((y**2).sum(-1, keepdims=True) + 1e-6) for y in (q, k))
    else:
        q, k = (y / np.maximum(np.abs(y).sum(-1, keepdims=True), 1e-6) for y in (q, k))
    beta = sigmoid(x @ w["b_proj.weight"].T) * (2 if config.get("allow_neg_eigval") else 1)
    alpha = np.ones_like(beta)
    gated = config["model_type"] == "gated_deltanet"
    if gated:
        step = np.log1p(np.exp(x @ w["a_proj.weight"].T + w["dt_bias"]))
        alpha = np.exp(-np.exp(w["A_log"]) * step)
    state = np.zeros((heads, k_dim, v_dim))
    out = np.empty((len(x), heads, v_dim))
    for t in range(len(x)):
        state = state * alpha[t][:, None, None]
        error = v[t] - np.einsum("hkv,hk->hv", state, k[t])
        state = state + np.einsum("hk,hv->hkv", k[t], beta[t][:, None] * error)
        out[t] = np.einsum("hkv,hk->hv", state, q[t]) * k_dim**-0.5
    out = rms_norm(out, w["o_norm.weight"], config["norm_eps"])
    if config.get("use_gate", gated):
        out = out * silu(x @ w["g_proj.weight"].T).reshape(out.shape)
    return out.reshape(len(x), -1) @ w["o_proj.weight"].T


def softmax_attention(spec, w, x):
    heads, length = spec["num_heads"], len(x)
    size = x.shape[1] // heads
    q, k, v = ((x @ w[f"{n}_proj.weight"].T).reshape(length, -1, size) for n in "qkv")
    frequencies = spec.get("rope_theta", 10_000.0) ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * np.arange(length)[:, None] * frequencies)[:, None]

    def rotate(y):
        pairs = (y[..., : size // 2] + 1j * y[..., size // 2 :]) * turn
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    q, k = rotate(q), rotate(k)
    k, v = (np.repeat(y, heads // y.shape[1], axis=1) for y in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) * size**-0.5
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    hidden = (distance < 0) | (distance >= (spec.get("window_size") or length))
    scores = np.exp(np.where(hidden, -np.inf, scores - scores.max(-1, keepdims=True)))
    scores /= scores.sum(-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", scores, v).reshape(length, -1) @ w["o_proj.weight"].T


def logits(config, tensors, tokens):
    """[T, vocab_size] for one sequence [T], in float64."""
    w = {name: np.asarray(x, np.float64) for name, x in tensors.items()}
    eps = config["norm_eps"]
    x = w["model.embeddings.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        block = {n.removeprefix(prefix): y for n, y in w.items() if n.startswith(prefix)}
        mixer = {n.removeprefix("attn."): y for n, y in block.items() if n.startswith("attn.")}
        y = rms_norm(x, block["attn_norm.weight"], eps)
        spec = attention_of(config, layer)
        if spec is None:
            x = x + recurrent(config, mixer, y)
        else:
            x = x + softmax_attention(spec, mixer, y)
        y = rms_norm(x, block["mlp_norm.weight"], eps)
        hidden = silu(y @ block["mlp.gate_proj.weight"].T) * (y @ block["mlp.up_proj.weight"].T)
        x = x + hidden @ block["mlp.down_proj.weight"].T
    head = w.get("lm_head.weight", w["model.embeddings.weight"])
    return rms_norm(x, w["model.norm.weight"], eps) @ head.T
