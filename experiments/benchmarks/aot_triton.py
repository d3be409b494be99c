# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles every Triton kernel to machine code, without a GPU: `make aot`.

For each case below forward and backward are traced, and every launch in them is compiled with its
own tile: an operator's first for every compute capability that the kernels take, the others for 8.0
and 9.0 (8.6 and 8.9 get the code of 8.0, and must do with less shared memory). Prints grid, warps,
registers, bytes spilled, shared memory and the seconds of compiling. The exit code is 1 if
something does not compile, spills more than SPILL_LIMIT or needs more shared memory than a block of
such a GPU may have.

Needs Triton, which brings its ptxas: requirements-aot.txt.
"""

import concurrent.futures
import functools
import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.aot import arguments
from pallas_kernels._common import triton_device

# Bytes of spill stores a thread. On an H200 the reverse pass of many heads is faster with 296 of
# them and four warps than with none and eight.
SPILL_LIMIT = 320


class Case(NamedTuple):
    """Inputs that an operator is compiled for.

    Attributes:
        operator: a name in OPERATORS.
        sizes: B, T, H, K, V; of the selective scan B, T, D, N; of one token's product columns and
            outputs, of its step H, K, V.
        dtype: of the inputs.
        segmented: with segments.
        option: of linear attention its decay, "none", "head" or "channel"; of a product what is
            computed with it.
    """

    operator: str
    sizes: tuple[int, ...]
    dtype: str
    segmented: bool = False
    option: str = ""


CASES = (
    Case("delta_rule", (16, 2048, 16, 128, 128), "bfloat16"),  # many heads
    Case("delta_rule", (1, 4096, 16, 128, 128), "float16", True),  # few
    Case("delta_rule", (16, 2048, 32, 64, 64), "bfloat16", True),
    Case("delta_rule", (16, 2048, 8, 256, 256), "bfloat16"),
    Case("delta_rule", (1, 4096, 16, 128, 128), "float32"),
    Case("delta_rule", (1, 16, 16, 128, 128), "bfloat16"),  # few tokens
    Case("linear_attention", (64, 2048, 4, 128, 256), "bfloat16", False, "channel"),
    Case("linear_attention", (64, 2048, 8, 128, 256), "bfloat16", True, "head"),
    Case("linear_attention", (16, 2048, 8, 256, 256), "float16", True, "channel"),
    Case("linear_attention", (16, 2048, 8, 128, 128), "float32", True, "channel"),
    Case("linear_attention", (16, 2048, 8, 256, 256), "float32", False, "head"),
    Case("linear_attention", (16, 2048, 8, 64, 64), "float16", False, "none"),
    Case("selective_scan", (64, 2048, 2048, 16), "bfloat16"),
    Case("selective_scan", (64, 2048, 2048, 64), "float32", True),
    Case("selective_scan", (1, 4096, 2048, 16), "float16", True),  # in pieces
    Case("row_product", (2048, 6160), "bfloat16", option="norm"),
    Case("row_product", (2048, 11264), "bfloat16", option="norm gated"),
    Case("row_product", (5632, 2048), "bfloat16", option="residual"),
    Case("delta_net_step", (16, 128, 128), "bfloat16"),
    Case("delta_net_step", (4, 64, 64), "float32"),
    Case("delta_net_step", (8, 128, 256), "float16"),
)
OPTIONS = ("SEGMENTS", "OUTPUT", "SAVE", "REVERSE")  # of a kernel, worth naming
POINTERS = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32", "int32": "*i32"}


class Launch(NamedTuple):
    """A kernel as it is launched: what Triton's compiler is given, and the grid."""

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, object]
    tile: triton_device.Tile
    capability: int
    grid: tuple[int, ...]


def _delta_rule(case: Case):
    from pallas_kernels.delta_rule.triton_vjp import delta_rule_triton

    args, _ = arguments(*case.sizes, case.dtype)
    return functools.partial(delta_rule_triton, scale=0.1, chunk_size=64), args


def _linear_attention(case: Case):
    from pallas_kernels.gated_linear_attention.triton_vjp import gated_linear_attention_triton

    (q, k, v, _, state), _ = arguments(*case.sizes, case.dtype)
    sizes = {"head": 1, "channel": case.sizes[3]}
    g = None
    if case.option != "none":
        g = jax.ShapeDtypeStruct((*case.sizes[:3], sizes[case.option]), jnp.float32)
    run = functools.partial(gated_linear_attention_triton, scale=0.1, chunk_size=64)
    return run, (q, k, v, g, state)


def _selective_scan(case: Case):
    from pallas_kernels.selective_scan.triton_vjp import selective_scan_triton

    batch, length, width, states = case.sizes
    x, b = (
        jax.ShapeDtypeStruct((batch, length, n), jnp.dtype(case.dtype)) for n in (width, states)
    )
    dt, a, state = (
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in (x.shape, (states, width), (batch, states, width))
    )
    return selective_scan_triton, (x, dt, a, b, b, state)


def _row_product(case: Case):
    from pallas_kernels.decoding.triton_calls import row_product_triton

    columns, outputs = case.sizes
    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.dtype(case.dtype))
    weight = array((outputs, columns))
    scale = array((columns,)) if "norm" in case.option else None
    residual = array((1, outputs)) if "residual" in case.option else None
    run = functools.partial(row_product_triton, norm_eps=1e-6, gated="gated" in case.option)
    return run, (array((1, columns)), weight, scale, residual)


def _delta_net_step(case: Case):
    from pallas_kernels.decoding.delta_net_step import Columns
    from pallas_kernels.decoding.triton_calls import delta_net_step_triton

    heads, key_size, value_size = case.sizes
    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.dtype(case.dtype))
    sizes = (heads * key_size, heads * key_size, heads * value_size)
    columns = Columns(0, sizes[0], 2 * sizes[0], sum(sizes))
    run = functools.partial(
        delta_net_step_triton, columns=columns, beta_scale=1.0, norm_eps=1e-6, scale=0.1
    )
    return run, (
        array((1, sum(sizes) + heads)),
        tuple(array((1, 3, size)) for size in sizes),
        tuple(array((4, size)) for size in sizes),
        array((value_size,)),
        jax.ShapeDtypeStruct((1, heads, key_size, value_size), jnp.float32),
    )


# The operator and its arguments; called as operator(*arguments, segments, capability=), and its
# gradients are compiled too. Those of one token have neither segments nor gradients.
OPERATORS = {
    "delta_rule": _delta_rule,
    "linear_attention": _linear_attention,
    "selective_scan": _selective_scan,
}
OF_ONE_TOKEN = {"row_product": _row_product, "delta_net_step": _delta_net_step}


def capabilities(case: Case) -> list[int]:
    """What this case is compiled for."""
    first = next(c for c in CASES if c.operator == case.operator)
    return [c for c in triton_device.SHARED_MEMORY if case == first or c % 10 == 0]


def launches(case: Case, capability: int) -> list[Launch]:
    """Every launch of forward and backward, each once."""
    from pallas_kernels._common import triton_launch

    found = {}

    def record(kernel, *arguments, out, grid, tile, capability, aliases=None, **constants):
        del aliases
        types = ["i32" if isinstance(x, int) else "fp32" for x in arguments]
        for i, x in enumerate(arguments):
            types[i] = POINTERS[x.dtype.name] if hasattr(x, "dtype") else types[i]
        types += [POINTERS[x.dtype.name] for x in out]
        signature = dict(zip(kernel.arg_names, types, strict=False))
        signature |= dict.fromkeys(constants, "constexpr")
        name = kernel.fn.__module__, kernel.fn.__name__
        launch = Launch(*name, signature, constants, tile, capability, grid)
        found[str(launch._replace(grid=()))] = launch
        return [jnp.zeros(x.shape, x.dtype) for x in out]

    one_token = case.operator in OF_ONE_TOKEN
    operator, args = (OPERATORS | OF_ONE_TOKEN)[case.operator](case)
    operator = functools.partial(operator, capability=capability)
    segments = jax.ShapeDtypeStruct(case.sizes[:2], jnp.int32) if case.segmented else None

    def outputs_and_gradients(args, segments):
        if one_token:
            return operator(*args)
        outputs, vjp = jax.vjp(lambda *args: operator(*args, segments), *args)
        return outputs, vjp(outputs)

    kept, triton_launch.launch = triton_launch.launch, record
    try:
        jax.eval_shape(outputs_and_gradients, args, segments)
    finally:
        triton_launch.launch = kept
    return list(found.values())


def compile_launch(launch: Launch) -> dict[str, int | float]:
    """Compiles one kernel; what Triton and ptxas say of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    aligned = [["tt.divisibility", 16]]
    pointers = {
        (i,): aligned
        for i, name in enumerate(kernel.arg_names)
        if launch.signature[name].startswith("*")
    }
    start = time.perf_counter()
    compiled = triton.compile(
        ASTSource(kernel, launch.signature, launch.constants, pointers),
        target=GPUTarget("cuda", launch.capability, 32),
        options={"num_warps": launch.tile.warps, "num_stages": launch.tile.stages},
    )
    seconds = time.perf_counter() - start
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(compiled.asm["ptx"])
        file.flush()
        target = re.search(r"\.target (\w+)", compiled.asm["ptx"]).group(1)
        ptxas = triton.knobs.nvidia.ptxas.path
        command = [ptxas, "-v", "--gpu-name", target, file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "registers": int(re.search(r"Used (\d+) registers", said).group(1)),
        "spilled": int(re.search(r"(\d+) bytes spill stores", said).group(1)),
        "shared": compiled.metadata.shared,
        "seconds": seconds,
    }


def failure(launch: Launch, found: dict[str, int | float]) -> str | None:
    """What is wrong with a compiled kernel, or None."""
    shared = triton_device.SHARED_MEMORY
    allowed = min(shared[c] for c in shared if c // 10 == launch.capability // 10)
    if found["spilled"] > SPILL_LIMIT:
        return f"spills {found['spilled']} bytes a thread, wanted at most {SPILL_LIMIT}"
    if found["shared"] > allowed:
        return f"needs {found['shared']} bytes of shared memory, there are {allowed}"
    return None


def main() -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"
    print(
        "| GPU | operator | sizes | kernel | grid | warps | registers | spilled, B | shared, B "
        "| s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    failures = []
    # Triton keeps Python's lock while it compiles; and JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
        work = [
            (case, launch, pool.submit(compile_launch, launch))
            for case in CASES
            for capability in capabilities(case)
            for launch in launches(case, capability)
        ]
        for case, launch, future in work:
            options = [k for k in OPTIONS if launch.constants.get(k)]
            name = " ".join([launch.kernel, *map(str.lower, options)])
            sizes = ", ".join(map(str, case.sizes))
            about = " ".join([case.operator, case.option]).strip()
            where = f"sm_{launch.capability} | {about} | {sizes} {case.dtype} | {name}"
            try:
                found = future.result()
            except Exception as error:  # the other kernels are still worth knowing
                failures.append(f"{where}: {type(error).__name__}: {str(error)[:500]}")
                continue
            print(
                f"| {where} | {'x'.join(map(str, launch.grid))} | {launch.tile.warps} "
                f"| {found['registers']} | {found['spilled']} | {found['shared']} "
                f"| {found['seconds']:.1f} |",
                flush=True,
            )
            if wrong := failure(launch, found):
                failures.append(f"{where}: {wrong}")
    for text in failures:
        print(f"FAILED {text}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
