# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One token through all DeltaNet layers in one launch: the memory waits for no kernel to start.

A layer is five phases (README.md), each with a tile [BN, BD] of a weight after the other. Between
two phases all programs wait for each other. Weights depend on nothing, so a program asks for tiles
DEPTH ahead, of whatever phase or layer: they arrive in its registers while it waits. Where the
tiles of a layer are a multiple of DEPTH, none moves to another register, and so is waited for.

In names of constants: G programs, D the model's width, Z rows of the first projection, F
the MLP's width, H heads, K = V their sizes (D = H K), BV columns of a state in a program, W taps.
"""

from typing import no_type_check

import triton
import triton.language as tl

L2_EPS = tl.constexpr(1e-6)
WINDOW = tl.constexpr(8)  # pieces of the last product's input asked for ahead
FRESH = tl.constexpr(".cg")  # what other programs wrote: not from this multiprocessor's cache


@triton.jit
@no_type_check
def _wait_for_all(counter, target, ON: tl.constexpr):
    """What any program wrote before this, every program reads after it."""
    if ON:
        tl.debug_barrier()  # all threads have written
        seen = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") + 1
        while seen < target:
            seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
        tl.debug_barrier()


@triton.jit
@no_type_check
def _rows_of(i: tl.constexpr, BN: tl.constexpr, G: tl.constexpr):
    """Rows [BN] of a program's block number i of a matrix: blocks are dealt out in turns."""
    return (i * G + tl.program_id(0)) * BN + tl.arange(0, BN)


@triton.jit
@no_type_check
def _part(
    weight, layer, last, AHEAD: tl.constexpr, n: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HALF: tl.constexpr, BLOCKS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """[BN, BD] of weight[layer + AHEAD] [ROWS, COLUMNS]: the program's tile n, BLOCKS blocks
    of rows from the same columns one after the other; for BLOCKS = 0 block after block.

    With HALF half of the rows come from the first HALF, half from the others. An address is one
    that all tiles of the matrix share and a distance that all threads share: else the compiler
    keeps addresses of all tiles in registers.
    """
    PARTS: tl.constexpr = (COLUMNS + BD - 1) // BD
    at: tl.constexpr = (n // BLOCKS if BLOCKS else n % PARTS) * BD
    number: tl.constexpr = n % BLOCKS if BLOCKS else n // PARTS
    rows = tl.arange(0, BN)
    pid = tl.program_id(0)
    block = number * G + pid
    if HALF:
        step: tl.constexpr = BN // 2 * COLUMNS
        places = (rows // (BN // 2) * HALF + rows % (BN // 2)) * COLUMNS
    else:
        step: tl.constexpr = BN * COLUMNS
        places = rows * COLUMNS
    columns = tl.arange(0, BD)[None, :]
    live = (layer + AHEAD < last) & tl.full([1, 1], True, tl.int1)
    if (number + 1) * G * BN > ROWS:
        inside = block * (BN // 2) + rows % (BN // 2) < HALF if HALF else block * BN + rows < ROWS
        live = live & inside[:, None]
    if at + BD > COLUMNS:
        live = live & (columns < COLUMNS - at)
    pointers = weight + pid * step + places[:, None] + columns
    pointers += (layer + AHEAD).to(tl.int64) * (ROWS * COLUMNS) + (number * G * step + at)
    return tl.load(pointers, mask=live, other=0.0, eviction_policy="evict_first")


@triton.jit
@no_type_check
def _tile(
    weights, layer, last, i: tl.constexpr,
    A: tl.constexpr, C: tl.constexpr, M: tl.constexpr, E: tl.constexpr,
    Z: tl.constexpr, D: tl.constexpr, F: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Tile number i of a layer's: A, C, M and E of the four matrices; beyond, the next layer's."""
    ahead: tl.constexpr = i // (A + C + M + E)
    n: tl.constexpr = i % (A + C + M + E)
    if n < A:
        return _part(weights[0], layer, last, ahead, n, Z, D, 0, 0, BN, BD, G)
    elif n < A + C:
        return _part(weights[1], layer, last, ahead, n - A, D, D, 0, 0, BN, BD, G)
    elif n < A + C + M:
        return _part(weights[2], layer, last, ahead, n - A - C, 2 * F, D, F, 0, BN, BD, G)
    else:
        BLOCKS: tl.constexpr = (D + G * BN - 1) // (G * BN)
        return _part(weights[3], layer, last, ahead, n - A - C - M, D, F, 0, BLOCKS, BN, BD, G)


@triton.jit
@no_type_check
def _piece(x, i: tl.constexpr, SIZE: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """Part i of x [SIZE] as every row of [BN, BD], as tiles lie: every warp has its own."""
    columns = tl.broadcast_to(i * BD + tl.arange(0, BD)[None, :], [BN, BD])
    if (i + 1) * BD > SIZE:
        return tl.load(x + columns, mask=columns < SIZE, other=0.0, cache_modifier=FRESH)
    else:
        return tl.load(x + columns, cache_modifier=FRESH)


@triton.jit
@no_type_check
def _pieces(
    x, START: tl.constexpr, STOP: tl.constexpr,
    SIZE: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    parts = ()
    for i in tl.static_range(START, STOP):
        parts = parts + (_piece(x, i, SIZE, BN, BD),)
    return parts


@triton.jit
@no_type_check
def _scaled(x, g, eps, D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """(g x, 1 / sqrt(mean x^2 + eps)): the factor of all is for what comes of the product."""
    squares = tl.zeros([BN, BD], tl.float32)
    parts = ()
    for i in tl.static_range((D + BD - 1) // BD):
        u = x[i].to(tl.float32)
        squares += u * u
        parts = parts + (u * g[i].to(tl.float32),)
    return parts, tl.rsqrt(tl.sum(squares, axis=1) / D + eps)


@triton.jit
@no_type_check
def _past(tails, taps, layer, channels, live, CHANNELS: tl.constexpr, W: tl.constexpr):
    """The short convolution's sum over all inputs but the newest."""
    tails += layer.to(tl.int64) * (W - 1) * CHANNELS + channels
    taps += layer.to(tl.int64) * W * CHANNELS + channels
    newest = tl.load(taps, mask=live, other=0.0).to(tl.float32)
    out = tl.zeros_like(newest)
    for back in tl.static_range(1, W):
        old = tl.load(tails + (W - 1 - back) * CHANNELS, mask=live, other=0.0).to(tl.float32)
        out += old * tl.load(taps + back * CHANNELS, mask=live, other=0.0).to(tl.float32)
    return out, newest


@triton.jit
@no_type_check
def _convolved(z, channels, live, past, newest):
    new = tl.load(z + channels, mask=live, other=0.0, cache_modifier=FRESH).to(tl.float32)
    out = past + new * newest
    return out * tl.sigmoid(out)


@triton.jit
@no_type_check
def token_kernel(
    first_weight, out_weight, gate_up_weight, down_weight, mixer_scale, head_scale, mlp_scale, taps,
    layers, x_in, tails_in, state_in, z_in, o_in, x1_in, h_in, counter_in,
    scale, beta_scale, mixer_eps, head_eps, mlp_eps,
    x, tails, state, z, o, x1, h, counter,
    Z: tl.constexpr, D: tl.constexpr, F: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    BV: tl.constexpr, W: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr,
    G: tl.constexpr, DEPTH: tl.constexpr, PHASES: tl.constexpr, BARRIER: tl.constexpr,
):  # fmt: skip
    """x, tails, state after layers layers[0] to layers[1] - 1. Grid (G), all running at one time.

    Everything that is written is written over an input. PHASES: bits of those to do, 31 for all;
    without BARRIER a launch may have one phase of one layer. `counter` [1] is 0 before and after.
    """
    PARTS: tl.constexpr = (D + BD - 1) // BD
    MORE: tl.constexpr = (F + BD - 1) // BD
    BLOCKS: tl.constexpr = (D + G * BN - 1) // (G * BN)
    A: tl.constexpr = (Z + G * BN - 1) // (G * BN) * PARTS
    C: tl.constexpr = BLOCKS * PARTS
    M: tl.constexpr = (2 * F + G * BN - 1) // (G * BN) * PARTS
    E: tl.constexpr = BLOCKS * MORE
    weights = (first_weight, out_weight, gate_up_weight, down_weight)
    pid = tl.program_id(0)
    # The step's part of this program: BV columns of a head's state.
    working = pid < H * K // BV
    head = pid // (K // BV)
    keys = tl.arange(0, K)
    values = pid % (K // BV) * BV + tl.arange(0, BV)
    shifted = pid * BC + tl.arange(0, BC)  # channels whose tails this program moves on
    shifts = shifted < 3 * D
    done = 0
    layer = tl.load(layers)
    last = tl.load(layers + 1)
    queue = ()
    for i in tl.static_range(DEPTH):
        queue = queue + (_tile(weights, layer, last, i, A, C, M, E, Z, D, F, BN, BD, G),)
    for _ in range(layer, last):
        place = layer.to(tl.int64)

        # 1. z = W norm(x)
        g = _pieces(mixer_scale + place * D, 0, PARTS, D, BN, BD)
        if PHASES & 1:
            u, factor = _scaled(_pieces(x, 0, PARTS, D, BN, BD), g, mixer_eps, D, BN, BD)
        for i in tl.static_range(A):
            if i % PARTS == 0:
                sums = tl.zeros([BN, BD], tl.float32)
            if PHASES & 1:
                sums += queue[0].to(tl.float32) * u[i % PARTS]
            queue = queue[1:] + (
                _tile(weights, layer, last, i + DEPTH, A, C, M, E, Z, D, F, BN, BD, G),
            )
            if PHASES & 1 and i % PARTS == PARTS - 1:
                rows = _rows_of(i // PARTS, BN, G)
                y = tl.sum(sums, axis=1) * factor
                tl.store(z + rows, y.to(z.dtype.element_ty), mask=rows < Z)

        # 2. S, o = step(S, z)
        places = place * H * K * K + head * K * K + keys[:, None] * K + values[None, :]
        memory = tl.load(state + places, mask=working, other=0.0)
        q_past, q_tap = _past(tails, taps, layer, head * K + keys, working, 3 * D, W)
        k_past, k_tap = _past(tails, taps, layer, D + head * K + keys, working, 3 * D, W)
        v_past, v_tap = _past(tails, taps, layer, 2 * D + head * K + values, working, 3 * D, W)
        done += G
        _wait_for_all(counter, done, BARRIER)
        if PHASES & 2:
            q = _convolved(z, head * K + keys, working, q_past, q_tap)
            k = _convolved(z, D + head * K + keys, working, k_past, k_tap)
            v = _convolved(z, 2 * D + head * K + values, working, v_past, v_tap)
            beta = tl.load(z + 3 * D + head, mask=working, other=0.0, cache_modifier=FRESH)
            beta = beta_scale * tl.sigmoid(beta.to(tl.float32))
            q *= tl.rsqrt(tl.sum(q * q, axis=0) + L2_EPS)
            k *= tl.rsqrt(tl.sum(k * k, axis=0) + L2_EPS)
            write = beta * (v - tl.sum(k[:, None] * memory, axis=0))
            # S'^T q, from sums that do not wait for one another.
            read = tl.sum(q[:, None] * memory, axis=0) + tl.sum(q * k, axis=0) * write
            tl.store(state + places, memory + k[:, None] * write[None, :], mask=working)
            read = (scale * read).to(o.dtype.element_ty)
            tl.store(o + head * K + values, read, mask=working)
        moved = tails + place * (W - 1) * 3 * D + shifted
        newest = tl.load(z + shifted, mask=shifts, other=0.0, cache_modifier=FRESH)
        kept = ()
        for j in tl.static_range(1, W - 1):
            kept = kept + (tl.load(moved + j * 3 * D, mask=shifts, other=0.0),)

        # 3. x1 = x + W norm(o), a norm a head
        columns = tl.broadcast_to((tl.arange(0, BD) % K)[None, :], [BN, BD])
        g = tl.load(head_scale + place * K + columns).to(tl.float32)
        done += G
        _wait_for_all(counter, done, BARRIER)
        if PHASES & 4:
            inputs = _pieces(o, 0, PARTS, D, BN, BD)
            u = ()
            for i in tl.static_range(PARTS):
                heads = tl.reshape(inputs[i].to(tl.float32), [BN, BD // K, K])
                heads *= tl.rsqrt(tl.sum(heads * heads, axis=2) / K + head_eps)[:, :, None]
                u = u + (tl.reshape(heads, [BN, BD]) * g,)
            for j in tl.static_range(W - 2):  # all have read them
                tl.store(moved + j * 3 * D, kept[j], mask=shifts)
            tl.store(moved + (W - 2) * 3 * D, newest, mask=shifts)
        for i in tl.static_range(C):
            if i % PARTS == 0:
                rows = _rows_of(i // PARTS, BN, G)
                residual = tl.load(x + rows, mask=rows < D, other=0.0, cache_modifier=FRESH)
                sums = tl.zeros([BN, BD], tl.float32)
            if PHASES & 4:
                sums += queue[0].to(tl.float32) * u[i % PARTS]
            queue = queue[1:] + (
                _tile(weights, layer, last, A + i + DEPTH, A, C, M, E, Z, D, F, BN, BD, G),
            )
            if PHASES & 4 and i % PARTS == PARTS - 1:
                y = residual.to(tl.float32) + tl.sum(sums, axis=1)
                tl.store(x1 + rows, y.to(x1.dtype.element_ty), mask=rows < D)

        # 4. h = silu(W_1 u) (W_2 u), u = norm(x1)
        g = _pieces(mlp_scale + place * D, 0, PARTS, D, BN, BD)
        done += G
        _wait_for_all(counter, done, BARRIER)
        if PHASES & 8:
            u, factor = _scaled(_pieces(x1, 0, PARTS, D, BN, BD), g, mlp_eps, D, BN, BD)
        for i in tl.static_range(M):
            if i % PARTS == 0:
                sums = tl.zeros([BN, BD], tl.float32)
            if PHASES & 8:
                sums += queue[0].to(tl.float32) * u[i % PARTS]
            queue = queue[1:] + (
                _tile(weights, layer, last, A + C + i + DEPTH, A, C, M, E, Z, D, F, BN, BD, G),
            )
            if PHASES & 8 and i % PARTS == PARTS - 1:
                both = tl.reshape(tl.sum(sums, axis=1) * factor, [2, BN // 2])
                gate, up = tl.split(tl.trans(both))
                rows = _rows_of(i // PARTS, BN // 2, G)
                y = gate * tl.sigmoid(gate) * up
                tl.store(h + rows, y.to(h.dtype.element_ty), mask=rows < F)

        # 5. x = x1 + W h
        done += G
        _wait_for_all(counter, done, BARRIER)
        ahead: tl.constexpr = min(WINDOW, MORE)
        inputs = _pieces(h, 0, ahead, F, BN, BD)
        totals, residuals = (), ()
        for i in tl.static_range(BLOCKS):
            rows = _rows_of(i, BN, G)
            residual = tl.load(x1 + rows, mask=rows < D, other=0.0, cache_modifier=FRESH)
            residuals = residuals + (residual,)
            totals = totals + (tl.zeros([BN, BD], tl.float32),)
        for i in tl.static_range(E):
            if PHASES & 16:
                sums = totals[0] + queue[0].to(tl.float32) * inputs[0].to(tl.float32)
                totals = totals[1:] + (sums,)
            queue = queue[1:] + (
                _tile(weights, layer, last, A + C + M + i + DEPTH, A, C, M, E, Z, D, F, BN, BD, G),
            )
            if i % BLOCKS == BLOCKS - 1:
                inputs = inputs[1:]
                if i // BLOCKS + ahead < MORE:
                    inputs = inputs + (_piece(h, i // BLOCKS + ahead, F, BN, BD),)
        if PHASES & 16:
            for i in tl.static_range(BLOCKS):
                rows = _rows_of(i, BN, G)
                y = residuals[i].to(tl.float32) + tl.sum(totals[i], axis=1)
                tl.store(x + rows, y.to(x.dtype.element_ty), mask=rows < D)
        done += G
        _wait_for_all(counter, done, BARRIER)
        layer += 1
    if BARRIER:
        left = tl.atomic_add(counter, 1, sem="relaxed", scope="gpu") - done
        if left == G - 1:  # all are here, and nobody looks at it any more
            tl.atomic_xchg(counter, 0, sem="relaxed", scope="gpu")
