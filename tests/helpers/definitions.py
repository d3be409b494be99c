# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Every mixer written out from its paper: token by token or quadratic, nothing of the library.

DEFINITIONS[kind](mixer, x) computes mixer(x)[0] from the mixer's weights and config.
"""

import jax
import jax.numpy as jnp

ACTIVATIONS = {
    "silu": lambda y: y / (1 + jnp.exp(-y)),
    "elu_plus_one": lambda y: jnp.where(y > 0, y + 1, jnp.exp(jnp.minimum(y, 0))),
    "identity": lambda y: y,
}
NORMS = {
    None: lambda y: y,
    "l2": lambda y: y / jnp.sqrt(jnp.sum(y**2, axis=-1, keepdims=True) + 1e-6),
    "l1": lambda y: y / (jnp.sum(jnp.abs(y), axis=-1, keepdims=True) + 1e-6),
}


def convolve(conv, y):
    """Causal convolution of every channel; none if `conv` is None."""
    if conv is None:
        return y
    weight, (_, length, _) = conv.weight[...], y.shape
    back = [jnp.pad(y, ((0, 0), (j, 0), (0, 0)))[:, :length] for j in range(len(weight))]
    return sum(weight[j][None, None] * earlier for j, earlier in enumerate(back))


def heads(projection, x):
    """Linear, causal convolution, activation, heads, norm: [B, T, H, size]."""
    y = convolve(projection.conv, x @ projection.proj.kernel[...])
    y = ACTIVATIONS[projection.activation](y)
    return NORMS[projection.norm](y.reshape(*y.shape[:2], projection.num_heads, -1))


def queries_keys_values(mixer, x):
    return tuple(heads(p, x) for p in (mixer.qkv.q_heads, mixer.qkv.k_heads, mixer.qkv.v_heads))


def recur(token, *inputs):
    """o_t of (S_t, o_t) = token(S_{t-1}, *inputs_t) with S [V, K] from zero; inputs [B, T, H, ...].

    `token` knows one row and one head. The last two inputs are k (or several) and v.
    """

    def one_head(*inputs):
        k, v = inputs[-2:]
        state = jnp.zeros((v.shape[-1], k.shape[-1]), v.dtype)
        return jax.lax.scan(lambda state, inputs: token(state, *inputs), state, inputs)[1]

    return jax.vmap(jax.vmap(one_head, in_axes=1, out_axes=1))(*inputs)


def output(mixer, o, x, gate=None):
    """RMSNorm per head, gate (silu(x W_gate), if there is one and no other is given), Linear."""
    if mixer.out_norm is not None:
        o = o / jnp.sqrt(jnp.mean(o**2, axis=-1, keepdims=True) + 1e-6)
        o = o * mixer.out_norm.scale[...][None, None, None]
    o = o.reshape(*x.shape[:2], -1)
    if gate is None and mixer.gate_proj is not None:
        gate = ACTIVATIONS["silu"](x @ mixer.gate_proj.kernel[...])
    if gate is not None:
        o = o * gate
    return o @ mixer.out_proj.kernel[...]


def write_strengths(mixer, x):
    largest = 2 if mixer.config.allow_neg_eigval else 1
    return largest / (1 + jnp.exp(-(x @ mixer.beta_proj.kernel[...])))


def householder(beta, k):
    return jnp.eye(k.shape[-1], dtype=k.dtype) - beta * jnp.outer(k, k)


def delta_net(mixer, x):
    """Yang et al. 2024, arXiv:2406.06484."""
    q, k, v = queries_keys_values(mixer, x)

    def token(state, q, beta, k, v):
        state = state @ householder(beta, k) + beta * jnp.outer(v, k)
        return state, state @ q * k.shape[-1] ** -0.5

    return output(mixer, recur(token, q, write_strengths(mixer, x), k, v), x)


def gated_delta_net(mixer, x):
    """Yang, Kautz, Hatamizadeh 2025, arXiv:2412.06464; Mamba2's decay."""
    q, k, v = queries_keys_values(mixer, x)
    step = jnp.log1p(jnp.exp(x @ mixer.decay_proj.kernel[...] + mixer.dt_bias[...][None, None]))
    alpha = jnp.exp(-jnp.exp(mixer.A_log[...])[None, None] * step)

    def token(state, q, alpha, beta, k, v):
        state = state @ (alpha * householder(beta, k)) + beta * jnp.outer(v, k)
        return state, state @ q * k.shape[-1] ** -0.5

    return output(mixer, recur(token, q, alpha, write_strengths(mixer, x), k, v), x)


def kda(mixer, x):
    """Kimi Team 2025, arXiv:2510.26692, eq. 1 (transposed), with Gated DeltaNet's decay."""
    q, k, v = queries_keys_values(mixer, x)
    logits = x @ mixer.decay_down_proj.kernel[...] @ mixer.decay_up_proj.kernel[...]
    step = jnp.log1p(jnp.exp(logits + mixer.dt_bias[...][None, None])).reshape(k.shape)
    alpha = jnp.exp(-jnp.exp(mixer.A_log[...])[None, None, :, None] * step)

    def token(state, q, alpha, beta, k, v):
        state = (state * alpha[None]) @ householder(beta, k) + beta * jnp.outer(v, k)
        return state, state @ q * k.shape[-1] ** -0.5

    o = recur(token, q, alpha, write_strengths(mixer, x), k, v)
    down, up = mixer.gate_proj.layers
    return output(mixer, o, x, 1 / (1 + jnp.exp(-(x @ down.kernel[...] @ up.kernel[...]))))


def delta_product(mixer, x):
    """Siems et al. 2025, arXiv:2502.10297: S_t = S_{t-1} A_t + B_t, products as they are."""
    n, num_heads = mixer.config.num_householder, mixer.config.num_heads
    q, *others = *queries_keys_values(mixer, x), write_strengths(mixer, x)
    k, v, beta = (y.reshape(*y.shape[:2], num_heads, n, *y.shape[3:]) for y in others)

    def token(state, q, beta, k, v):
        transition, addition = jnp.eye(k.shape[-1], dtype=k.dtype), 0 * state
        for j in range(n):
            reflection = householder(beta[j], k[j])
            transition = transition @ reflection
            addition = addition @ reflection + beta[j] * jnp.outer(v[j], k[j])
        state = state @ transition + addition
        return state, state @ q * k.shape[-1] ** -0.5

    return output(mixer, recur(token, q, beta, k, v), x)


def gla(mixer, x):
    """Yang et al. 2023, arXiv:2312.06635."""
    q, k, v = queries_keys_values(mixer, x)
    logits = x @ mixer.decay_down_proj.kernel[...] @ mixer.decay_up_proj.kernel[...]
    logits = logits + mixer.decay_bias[...][None, None]
    alpha = (1 / (1 + jnp.exp(-logits))) ** (1 / mixer.config.decay_temperature)

    def token(state, q, alpha, k, v):
        state = state * alpha[None] + jnp.outer(v, k)
        return state, state @ q * k.shape[-1] ** -0.5

    return output(mixer, recur(token, q, alpha.reshape(q.shape), k, v), x)


def retnet(mixer, x):
    """Sun et al. 2023, eqs. 5 and 8: (Q K^T * D) V with D_nm = gamma^(n - m)."""
    q, k, v = queries_keys_values(mixer, x)
    gamma = 1 - 2.0 ** (-5 - jnp.arange(q.shape[2]))
    times = jnp.arange(x.shape[1])
    distance = times[:, None] - times[None]
    d = jnp.tril(gamma[:, None, None] ** jnp.maximum(distance, 0)[None])
    scores = jnp.einsum("bihk,bjhk->bhij", rotate(q), rotate(k)) * q.shape[-1] ** -0.5
    return output(mixer, jnp.einsum("bhij,bjhv->bihv", scores * d[None], v), x)


def linear_attention(mixer, x):
    """Katharopoulos et al. 2020, arXiv:2006.16236, as a quadratic sum (or its numerator)."""
    q, k, v = queries_keys_values(mixer, x)
    scores = jnp.tril(jnp.einsum("bihk,bjhk->bhij", q, k)) * q.shape[-1] ** -0.5
    if mixer.config.normalize:
        scores = scores / (scores.sum(-1, keepdims=True) + 1e-6)
    return output(mixer, jnp.einsum("bhij,bjhv->bihv", scores, v), x)


def mamba(mixer, u):
    """Gu, Dao 2023, arXiv:2312.00752: h' = A h + B x by zero-order hold of A, Euler of B."""
    rank, n = mixer.rank, mixer.config.state_size
    x = convolve(mixer.conv, u @ mixer.in_proj.kernel[...]) + mixer.conv_bias[...][None, None]
    x = ACTIVATIONS["silu"](x)
    controls = x @ mixer.controls_proj.kernel[...]
    b, c = controls[..., rank : rank + n], controls[..., rank + n :]
    dt = controls[..., :rank] @ mixer.dt_proj.kernel[...] + mixer.dt_bias[...][None, None]
    dt = jnp.log1p(jnp.exp(dt))

    def token(h, inputs):  # of one row; h [E, N]
        x, dt, b, c = inputs
        h = jnp.exp(dt[:, None] * -jnp.exp(mixer.A_log[...].T)) * h + jnp.outer(dt * x, b)
        return h, h @ c

    def row(*inputs):
        return jax.lax.scan(token, jnp.zeros((x.shape[-1], n), x.dtype), inputs)[1]

    y = jax.vmap(row)(x, dt, b, c) + mixer.skip[...][None, None] * x
    y = y * ACTIVATIONS["silu"](u @ mixer.gate_proj.kernel[...])
    return y @ mixer.out_proj.kernel[...]


def shifted(mixer, x, name):
    mix = getattr(mixer.shift, f"mix_{name}")[...][None, None]
    return mix * x + (1 - mix) * jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def rwkv4(mixer, x):
    """Peng et al. 2023, arXiv:2305.13048, eqs. 11 to 18: one softmax a channel, over all pairs."""
    r, k, v = (
        shifted(mixer, x, name) @ getattr(mixer, f"{name}_proj").kernel[...] for name in "rkv"
    )
    w, u = jnp.exp(mixer.log_decay_rate[...]), mixer.bonus[...]
    times = jnp.arange(x.shape[1])
    distance = (times[:, None] - times[None])[None, :, :, None]
    weights = jnp.where(distance > 0, -(distance - 1) * w[None, None, None], u[None, None, None])
    exponents = jnp.where(distance >= 0, weights + k[:, None], -jnp.inf)
    y = jnp.einsum("bijd,bjd->bid", jax.nn.softmax(exponents, axis=2), v)
    return (y / (1 + jnp.exp(-r))) @ mixer.out_proj.kernel[...]


def rwkv4_channel_mix(mixer, x):
    """Peng et al. 2023, arXiv:2305.13048, eqs. 19 to 21."""
    r, k = (shifted(mixer, x, name) @ getattr(mixer, f"{name}_proj").kernel[...] for name in "rk")
    return (jnp.maximum(k, 0) ** 2 @ mixer.out_proj.kernel[...]) / (1 + jnp.exp(-r))


def hyena(mixer, x):
    """Poli et al. 2023, arXiv:2302.10866: y = H(u) v, H the product of gates and Toeplitz matrices;
    with heads Massaroli et al. 2023, arXiv:2310.18780, section 4."""
    q, k, v = queries_keys_values(mixer, x)
    config, heads, length = mixer.config, q.shape[2], x.shape[1]
    times = (jnp.arange(length) / config.filter_length)[:, None]
    angles = 2 * jnp.pi * times * jnp.arange(1, config.filter_bands + 1)[None]
    y = jnp.concatenate([times, jnp.cos(angles), jnp.sin(angles)], axis=1)
    for layer in mixer.filter.layers[:-1]:
        y = jnp.sin(mixer.filter.frequency[...][None] * (y @ layer.kernel[...]))
    rates = jnp.log(100.0) / jnp.array([1.5, 0.3])
    rates = rates[0] + (rates[1] - rates[0]) * jnp.arange(heads) / (heads - 1)
    h = y @ mixer.filter.layers[-1].kernel[...] * jnp.exp(-times * rates[None])
    h = h + (times == 0) * mixer.filter.skip[...][None]
    distance = jnp.arange(length)[:, None] - jnp.arange(length)[None]
    toeplitz = jnp.where((distance >= 0)[:, :, None], h[jnp.maximum(distance, 0)], 0)
    o = jnp.einsum("ijh,bihk,bjhk,bjhv->bihv", toeplitz, q, k, v)
    return o.reshape(x.shape) @ mixer.out_proj.kernel[...]


def rotate(y, base=10_000.0):
    """Rotary positions by complex numbers (Su et al. 2021), halves convention."""
    half, length = y.shape[-1] // 2, y.shape[1]
    turns = jnp.arange(length)[:, None] * base ** (-jnp.arange(half) / half)[None]
    rotor = jnp.exp(1j * turns)[None, :, None]
    z = (y[..., :half] + 1j * y[..., half:]) * rotor
    return jnp.concatenate([z.real, z.imag], axis=-1)


def attention(mixer, x):
    """Vaswani et al. 2017 over the tokens before, within the window; grouped heads."""
    q, k, v = (
        (x @ p.kernel[...]).reshape(*x.shape[:2], -1, mixer.head_dim)
        for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj)
    )
    group = q.shape[2] // k.shape[2]
    q, k, v = rotate(q), rotate(jnp.repeat(k, group, axis=2)), jnp.repeat(v, group, axis=2)
    scores = jnp.einsum("bihk,bjhk->bhij", q, k) * mixer.head_dim**-0.5
    times = jnp.arange(x.shape[1])
    distance = times[:, None] - times[None]
    visible = (distance >= 0) & (distance < (mixer.config.window or len(times)))
    weights = jax.nn.softmax(jnp.where(visible[None, None], scores, -jnp.inf), axis=-1)
    o = jnp.einsum("bhij,bjhv->bihv", weights, v)
    return o.reshape(*x.shape[:2], -1) @ mixer.out_proj.kernel[...]


DEFINITIONS = {
    "delta_net": delta_net,
    "gated_delta_net": gated_delta_net,
    "kda": kda,
    "delta_product": delta_product,
    "gla": gla,
    "retnet": retnet,
    "mamba": mamba,
    "rwkv4": rwkv4,
    "rwkv4_channel_mix": rwkv4_channel_mix,
    "hyena": hyena,
    "attention": attention,
    "linear_attention": linear_attention,
}
