# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles every Triton kernel to machine code, without a GPU: `make aot`.

For each size below the delta rule's forward and backward are traced, and every launch in them is
compiled with its own tile: the first for every compute capability that the kernels take, the others
for 8.0 and 9.0 (8.6 and 8.9 get the code of 8.0, and must do with less shared memory). So are the
kernels of one token of the 1.3B model, and of other head sizes. Prints grid, warps,
registers, bytes spilled, shared memory and the seconds of compiling. The exit code is 1 if
something does not compile, spills more than SPILL_LIMIT or needs more shared memory than a block of
such a GPU may have.

Needs Triton, which brings its ptxas: requirements-aot.txt.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.aot import arguments
from pallas_kernels.delta_rule import triton_support

# Bytes of spill stores a thread. On an H200 the reverse pass of many heads is faster with 296 of
# them and four warps than with none and eight.
SPILL_LIMIT = 320
# B, T, H, K, V, dtype, with segments
SIZES = (
    (16, 2048, 16, 128, 128, "bfloat16", False),  # many heads
    (1, 4096, 16, 128, 128, "float16", True),  # few
    (16, 2048, 32, 64, 64, "bfloat16", True),
    (16, 2048, 8, 256, 256, "bfloat16", False),
    (1, 4096, 16, 128, 128, "float32", False),
    (1, 16, 16, 128, 128, "bfloat16", False),  # few tokens
)
# Of one token, for 8.0 and 9.0: columns, outputs, options of products; H, K, V of steps.
PRODUCTS = (
    (2048, 6160, {"norm": True}),
    (2048, 11264, {"norm": True, "gated": True}),
    (5632, 2048, {"residual": True}),
)
STEPS = ((16, 128, 128), (4, 64, 64), (8, 128, 256))
POINTERS = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32", "int32": "*i32"}


class Launch(NamedTuple):
    """A kernel as it is launched: what Triton's compiler is given, and the grid."""

    kernel: str
    signature: dict[str, str]
    constants: dict[str, object]
    tile: triton_support.Tile
    capability: int
    grid: tuple[int, ...]


def capabilities(sizes: list[int]) -> list[int]:
    """What these sizes are compiled for."""
    first = tuple(sizes) == SIZES[0][: len(sizes)]
    return [c for c in triton_support.SHARED_MEMORY if first or c % 10 == 0]


def traced(function: Callable, *args, capability: int) -> list[Launch]:
    """Every launch of `function(*args)`, each once."""
    from pallas_kernels.delta_rule import triton_launch

    found = {}

    def record(kernel, *arguments, out, grid, tile, capability, aliases=None, **constants):
        del aliases
        types = ["i32" if isinstance(x, int) else "fp32" for x in arguments]
        for i, x in enumerate(arguments):
            types[i] = POINTERS[x.dtype.name] if hasattr(x, "dtype") else types[i]
        types += [POINTERS[x.dtype.name] for x in out]
        signature = dict(zip(kernel.arg_names, types, strict=False))
        signature |= dict.fromkeys(constants, "constexpr")
        name = kernel.fn.__name__
        launch = Launch(name, signature, constants, tile, capability, grid)
        found[str(launch._replace(grid=()))] = launch
        return [jnp.zeros(x.shape, x.dtype) for x in out]

    kept, triton_launch.launch = triton_launch.launch, record
    try:
        jax.eval_shape(functools.partial(function, capability=capability), *args)
    finally:
        triton_launch.launch = kept
    return list(found.values())


def launches(sizes: tuple, dtype: str, segmented: bool, capability: int) -> list[Launch]:
    """Every launch of the delta rule's forward and backward, each once."""
    from pallas_kernels.delta_rule import triton_vjp

    segments = jax.ShapeDtypeStruct(sizes[:2], jnp.int32) if segmented else None

    def outputs_and_gradients(args, cotangents, segments, capability):
        run = functools.partial(
            triton_vjp.delta_rule_triton, scale=0.1, chunk_size=64, capability=capability
        )
        outputs, vjp = jax.vjp(lambda *args: run(*args, segments), *args)
        return outputs, vjp(cotangents)

    args, cotangents = arguments(*sizes, dtype)
    return traced(outputs_and_gradients, args, cotangents, segments, capability=capability)


def decoding_launches(dtype: str, capability: int) -> list[Launch]:
    """The kernels of one token, of every size."""
    from pallas_kernels.decoding import triton_calls
    from pallas_kernels.decoding.delta_net_step import Columns

    def array(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    found = []
    for columns, outputs, options in PRODUCTS:
        gated, residual = options.get("gated", False), options.get("residual")
        weight = array(outputs, columns)
        scale = array(columns) if options.get("norm") else None
        found += traced(
            functools.partial(triton_calls.row_product_triton, norm_eps=1e-6, gated=gated),
            *(array(1, columns), weight, scale, array(1, outputs) if residual else None),
            capability=capability,
        )
    for heads, key_size, value_size in STEPS:
        sizes = (heads * key_size, heads * key_size, heads * value_size)
        columns = Columns(0, sizes[0], 2 * sizes[0], sum(sizes))
        step = functools.partial(
            triton_calls.delta_net_step_triton,
            columns=columns,
            beta_scale=1.0,
            norm_eps=1e-6,
            scale=0.1,
        )
        found += traced(
            step,
            array(1, sum(sizes) + heads),
            tuple(array(1, 3, size) for size in sizes),
            tuple(array(4, size) for size in sizes),
            array(value_size),
            array(1, heads, key_size, value_size, dtype="float32"),
            capability=capability,
        )
    return found


def compile_launch(launch: Launch) -> dict[str, int | float]:
    """Compiles one kernel; what Triton and ptxas say of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pallas_kernels.decoding import triton_kernels
    from pallas_kernels.delta_rule import (
        triton_correction,
        triton_parallel,
        triton_passes,
        triton_prepare,
        triton_recurrent,
    )

    modules = (
        triton_kernels,
        triton_correction,
        triton_parallel,
        triton_passes,
        triton_prepare,
        triton_recurrent,
    )
    kernel = next(getattr(m, launch.kernel) for m in modules if hasattr(m, launch.kernel))
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
    shared = triton_support.SHARED_MEMORY
    allowed = min(shared[c] for c in shared if c // 10 == launch.capability // 10)
    if found["spilled"] > SPILL_LIMIT:
        return f"spills {found['spilled']} bytes a thread, wanted at most {SPILL_LIMIT}"
    if found["shared"] > allowed:
        return f"needs {found['shared']} bytes of shared memory, there are {allowed}"
    return None


def main() -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"
    print(
        "| GPU | B, T, H, K, V | kernel | grid | warps | registers | spilled, B | shared, B | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    failures = []
    # Triton keeps Python's lock while it compiles; and JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
        work = [
            (sizes, dtype, launch, pool.submit(compile_launch, launch))
            for *sizes, dtype, segmented in SIZES
            for capability in capabilities(sizes)
            for launch in launches(tuple(sizes), dtype, segmented, capability)
        ]
        work += [
            (["one token"], dtype, launch, pool.submit(compile_launch, launch))
            for dtype in ("bfloat16", "float32")
            for capability in (80, 90)
            for launch in decoding_launches(dtype, capability)
        ]
        for sizes, dtype, launch, future in work:
            options = [
                k
                for k in ("SEGMENTS", "OUTPUT", "SAVE", "NORM", "GATED", "RESIDUAL")
                if launch.constants.get(k)
            ]
            name = " ".join([launch.kernel, *map(str.lower, options)])
            where = f"sm_{launch.capability} | {', '.join(map(str, sizes))} {dtype} | {name}"
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
