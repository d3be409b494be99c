# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks and times the delta rule's Hopper kernels, beside FLA's if it can be imported.

    python -m experiments.benchmarks.delta_rule_kernels [--check] [--time B,T,H,K,V ...] [--fla]
        [--kernels] [--record FILE]

Times are of calls back to back (inputs rotated, after a warm-up), the median of several batches of
calls. Errors are RMS ratios: in --check against the definition in float32 on the same rounded
inputs, in --time of the very call timed, against the chunkwise form in float32.
"""

import argparse
import datetime
import functools
import json
import platform
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.delta_rule.api import delta_rule

NAMES = ("output", "final_state", "dq", "dk", "dv", "dbeta", "dinitial_state")


def make_inputs(key, batch, length, heads, key_size, value_size, dtype, *, hard=False):
    """q, k, v, beta, initial_state, do, dfinal_state; `hard`: 4 keys repeated, beta in [1, 2]."""
    keys = jax.random.split(key, 7)

    def unit(key, *shape):
        x = jax.random.normal(key, shape)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    k = unit(keys[1], batch, length, heads, key_size)
    beta = jax.nn.sigmoid(jax.random.normal(keys[3], (batch, length, heads)))
    if hard:
        k = jnp.take(k, jnp.arange(length) % min(4, length), axis=1)
        beta = 1 + beta
    q = unit(keys[0], batch, length, heads, key_size)
    v = jax.random.normal(keys[2], (batch, length, heads, value_size))
    state = jax.random.normal(keys[4], (batch, heads, key_size, value_size))
    do = jax.random.normal(keys[5], v.shape)
    dstate = jax.random.normal(keys[6], state.shape)
    return *(x.astype(dtype) for x in (q, k, v, beta)), state, do.astype(dtype), dstate


@functools.partial(jax.jit, static_argnums=0)
def forward(implementation, q, k, v, beta, state, do, dstate):
    del do, dstate
    return tuple(delta_rule(q, k, v, beta, initial_state=state, implementation=implementation))


@functools.partial(jax.jit, static_argnums=0)
def forward_and_vjp(implementation, q, k, v, beta, state, do, dstate):
    def run(q, k, v, beta, state):
        return tuple(delta_rule(q, k, v, beta, initial_state=state, implementation=implementation))

    outputs, vjp = jax.vjp(run, q, k, v, beta, state)
    return *outputs, *vjp((do.astype(outputs[0].dtype), dstate))


def upcast(inputs):
    return [x.astype(jnp.float32) for x in inputs]


def rms_ratios(values, references):
    """||x - ref|| / ||ref|| of each pair; not finite counts as infinite."""
    ratios = []
    for x, ref in zip(values, references, strict=True):
        x, ref = x.astype(jnp.float32), ref.astype(jnp.float32)
        ratio = float(jnp.linalg.norm((x - ref).ravel()) / jnp.linalg.norm(ref.ravel()))
        ratios.append(ratio if np.isfinite(ratio) else float("inf"))
    return dict(zip(NAMES, ratios, strict=False))


def show(ratios):
    return " ".join(f"{name} {ratio:.1e}" for name, ratio in ratios.items())


def check():
    cases = [
        (2, 512, 4, 128, 128, "bfloat16", False),
        (1, 1000, 3, 128, 128, "bfloat16", False),
        (2, 63, 2, 128, 128, "float16", False),
        (1, 200, 3, 48, 80, "bfloat16", False),
        (70, 65, 1, 64, 64, "bfloat16", False),
        (9, 200, 8, 128, 128, "bfloat16", False),
        (9, 192, 8, 64, 256, "float16", False),
        (9, 512, 8, 128, 128, "bfloat16", True),
    ]
    for *shape, dtype, hard in cases:
        inputs = make_inputs(jax.random.key(sum(shape)), *shape, dtype, hard=hard)
        got = forward_and_vjp("pallas", *inputs)
        again = forward_and_vjp("pallas", *inputs)
        same = all(bool((x == y).all()) for x, y in zip(got, again, strict=True))
        ratios = rms_ratios(got, forward_and_vjp("reference", *upcast(inputs)))
        print(shape, dtype, "hard" if hard else "", "repeats" if same else "DIFFERS", show(ratios))
        sys.stdout.flush()


def measure(run, inputs, batches=9, calls=10):
    """Milliseconds a call: all batches' means."""
    jax.block_until_ready([run(*x) for x in inputs])
    times = []
    for _ in range(batches):
        start = time.perf_counter()
        for i in range(calls):
            out = run(*inputs[i % len(inputs)])
        jax.block_until_ready(out)
        times.append((time.perf_counter() - start) / calls * 1e3)
    return times


def measure_kernels(run, inputs):
    from jax.experimental.mosaic.gpu import profiler

    _, times = profiler.measure(run, aggregate=False)(*inputs)
    for name, ms in times:
        print(f"    {ms * 1e3:9.1f} us  {name[:90]}")


def fla_times(inputs, mode):
    """FLA's milliseconds (CUDA events) and results on the same numbers."""
    import torch
    from fla.ops.delta_rule import chunk_delta_rule
    from triton.testing import do_bench

    q, k, v, beta, state, do, dstate = (torch.utils.dlpack.from_dlpack(x) for x in inputs)
    leaves = [x.clone().requires_grad_(mode != "forward") for x in (q, k, v, beta, state)]

    def run():
        return chunk_delta_rule(*leaves[:4], initial_state=leaves[4], output_final_state=True)

    def run_with_vjp():
        for x in leaves:
            x.grad = None
        out, final = run()
        torch.autograd.backward((out, final), (do, dstate))
        return out, final, *(x.grad for x in leaves)

    chosen = run if mode == "forward" else run_with_vjp
    with torch.set_grad_enabled(mode != "forward"):
        values = [jnp.from_dlpack(x.detach().contiguous()) for x in chosen()]
        times = do_bench(chosen, warmup=50, rep=200, return_mode="all")
    return times, values


def machine():
    def shell(*command):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    device = jax.devices()[0]
    driver = shell("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "device": device.device_kind,
        "driver": driver,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def time_shape(shape, args):
    base = {"op": "delta_rule", "shape": dict(zip("BTHKV", shape, strict=True))}
    base["dtype"] = "bfloat16"
    sets = [make_inputs(jax.random.key(i), *shape, jnp.bfloat16) for i in range(2)]
    reference = forward_and_vjp("xla", *upcast(sets[0]))
    for mode, run in (("forward", forward), ("forward_and_vjp", forward_and_vjp)):
        run = functools.partial(run, "pallas")
        start = time.perf_counter()
        values = jax.block_until_ready(run(*sets[0]))
        first = time.perf_counter() - start
        rows = [("pallas", rms_ratios(values, reference[: len(values)]), measure(run, sets), first)]
        if args.kernels:
            measure_kernels(run, sets[0])
        if args.fla:
            start = time.perf_counter()
            times, values = fla_times(sets[0], mode)
            first = time.perf_counter() - start
            rows.append(("fla", rms_ratios(values, reference[: len(values)]), times, first))
        for name, ratios, times, first in rows:
            print(shape, mode, name, f"median {np.median(times):.3f} ms", f"first {first:.1f} s")
            print("   ", show(ratios), flush=True)
            if args.record and max(ratios.values()) <= 1e-2:
                row = base | {"implementation": name, "mode": mode, "rms_error": ratios}
                row |= {"times_ms": [round(t, 5) for t in times], "first_call_s": round(first, 3)}
                with open(args.record, "a") as file:
                    file.write(json.dumps(row | machine() | {"commit": args.commit}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--time", nargs="*", default=[], metavar="B,T,H,K,V")
    parser.add_argument("--kernels", action="store_true", help="also the time of every GPU kernel")
    parser.add_argument("--fla", action="store_true")
    parser.add_argument("--record", help="JSON lines are appended here")
    parser.add_argument("--commit", default="unknown")
    args = parser.parse_args()
    if args.check:
        check()
    for shape in args.time:
        time_shape(tuple(int(size) for size in shape.split(",")), args)


if __name__ == "__main__":
    main()
