# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles Hopper kernels of the delta rules and of decoding to machine code, without a GPU: `make
aot`.

For each size below, forward and backward are traced, the kernels in them taken out and each
compiled for sm_90a, the H200's. Prints grid, threads, registers, bytes spilled and shared memory
of each, and the seconds that lowering and compiling took. The exit code is 1 if something does not
compile or spills more than SPILL_LIMIT.

Needs jax[cuda13-local] and a ptxas, on PATH or from nvidia-cuda-nvcc: requirements-aot.txt.
"""

import contextlib
import functools
import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

SPILL_LIMIT = 256  # bytes of spill stores a thread
# B, T, H, K, V, dtype
SIZES = (
    (16, 2048, 16, 128, 128, "bfloat16"),  # many heads
    (1, 4096, 16, 128, 128, "bfloat16"),  # few
    (1, 32768, 16, 128, 128, "bfloat16"),  # few and long: in pieces
    (16, 2048, 32, 64, 64, "bfloat16"),
    (1, 32768, 32, 64, 64, "bfloat16"),
    (16, 2048, 8, 256, 256, "bfloat16"),
    (1, 32768, 8, 256, 256, "bfloat16"),
    (4, 1000, 16, 128, 256, "float16"),
    (2, 200, 3, 48, 80, "float16"),
)
# Of the gated rule.
GATED_SIZES = (
    (16, 2048, 16, 128, 128, "bfloat16"),
    (1, 4096, 16, 128, 128, "bfloat16"),
    (16, 2048, 32, 64, 64, "bfloat16"),
    (4, 1000, 16, 128, 256, "float16"),
)
# Of one token through all layers: H, F, dtype.
LAYERS = ((16, 5632, "bfloat16"), (8, 2816, "float16"))
# What XLA is told of the device; numbers of an H200 (some of them an H100's).
TARGET = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560 clock_rate_ghz: 1.98
  device_memory_size: 150754820096 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 }
device_description_str: "NVIDIA H200" """
MESH = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))


def outputs_and_gradients(args, cotangents):
    """The operator, gated if its arguments are, on the kernels, without asking what device is
    there."""
    from pallas_kernels.delta_rule.kernel_vjp import delta_rule_kernels
    from pallas_kernels.gated_delta_rule.kernels import gated_delta_rule_kernels

    operator = delta_rule_kernels if len(args) == 5 else gated_delta_rule_kernels
    run = functools.partial(operator, scale=0.1, chunk_size=64)
    outputs, vjp = jax.vjp(lambda *args: run(*args, None), *args)
    return outputs, vjp(cotangents)


def one_token(heads: int, hidden: int, dtype):
    """One token through two layers on 132 multiprocessors: the function and its arguments."""
    from pallas_kernels.decoding import delta_net_layers as operator
    from pallas_kernels.decoding import layers_plan

    how, layers, taps = layers_plan.plan(heads, hidden, 132), 2, 4
    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.dtype(dtype))
    packed = operator.PackedLayers(
        stream=array((layers * how.programs * how.lines, layers_plan.TILE)),
        mixer_scale=array((layers, how.width)),
        head_scale=array((layers, layers_plan.HEAD)),
        mlp_scale=array((layers, how.width)),
        taps=array((layers, taps, 3 * how.width)),
    )
    memory = (layers, heads, layers_plan.HEAD, layers_plan.HEAD)
    state = operator.LayersState(
        array((layers, taps - 1, 3 * how.width)), jax.ShapeDtypeStruct(memory, jnp.float32)
    )
    run = functools.partial(operator.delta_net_layers, how=how)
    return run, (array((1, how.width)), packed, state)


def arguments(batch, length, heads, key_size, value_size, dtype, *, gated=False):
    """Shapes and dtypes of q, k, v, (g,) beta, state and of the cotangents of output and state."""
    keys = jax.ShapeDtypeStruct((batch, length, heads, key_size), dtype)
    values = jax.ShapeDtypeStruct((batch, length, heads, value_size), dtype)
    beta = jax.ShapeDtypeStruct((batch, length, heads), dtype)
    state = jax.ShapeDtypeStruct((batch, heads, key_size, value_size), jnp.float32)
    decay = [jax.ShapeDtypeStruct(beta.shape, jnp.float32)] * gated
    return (keys, keys, values, *decay, beta, state), (values, state)


def kernels(jaxpr, place: str = "") -> Iterator[tuple[str, object]]:
    """Every call of a kernel in a jaxpr, in order: its name, its equation.

    Where `kernel_name` was not given, the name is where in pallas_kernels it was called.
    """
    for equation in jaxpr.eqns:
        traceback = equation.source_info.traceback
        frames = traceback.frames if traceback is not None else []
        ours = [f for f in frames if "pallas_kernels" in f.file_name]
        here = f"{Path(ours[0].file_name).stem}.{ours[0].function_name}" if ours else place
        if equation.primitive.name == "mpmd_map":
            name = equation.params["name"]
            yield here if name == "kernel" else name, equation
            continue
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from kernels(getattr(inner, "jaxpr", inner), here)


def _is_jaxpr(x) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """What compilers write to stdout and stderr, as the one item of the list."""
    result: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield result
        finally:
            for fd, old in zip((1, 2), kept, strict=True):
                os.dup2(old, fd)
                os.close(old)
            file.seek(0)
            result.append(file.read().decode(errors="replace"))


def compile_kernel(equation, sharding) -> dict[str, int | float | str]:
    """Compiles one kernel; what ptxas and the launch say of it."""
    shapes = [
        jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype, sharding=sharding) for x in equation.invars
    ]

    def run(*args):
        return equation.primitive.bind(*args, **equation.params)

    start = time.perf_counter()
    with _captured() as said, jax.sharding.use_abstract_mesh(MESH):
        jax.jit(run).lower(*shapes).compile()
    seconds = time.perf_counter() - start
    launch = re.search(r"call i32 @mosaic_gpu_launch_kernel\(ptr %\w+, ([^p]*), ptr", said[0])
    sizes = [int(text.split()[1]) for text in launch.group(1).split(", ")]
    registers = re.search(r"Used (\d+) registers", said[0])
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said[0])
    return {
        "grid": "x".join(map(str, sizes[:3])),
        "threads": sizes[6] * sizes[7] * sizes[8],
        "registers": int(registers.group(1)),
        "spilled": int(spilled.group(1)),
        "shared": sizes[9],
        "serialised": "instructions are serialized" in said[0],  # wgmma that waits for itself
        "seconds": seconds,
    }


def use_wheels_ptxas() -> None:
    """Puts nvidia-cuda-nvcc's ptxas on PATH; where there is none, one on PATH is used."""
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations if spec else ():
        for path in Path(root).glob("*/bin/ptxas"):
            os.environ["PATH"] = f"{path.parent}:{os.environ['PATH']}"
            os.environ.setdefault("MOSAIC_GPU_CUDA_ROOT", str(path.parent.parent))


def cases() -> Iterator[tuple[str, Callable, tuple]]:
    """Sizes in words, what is traced, its arguments."""
    for gated, (*sizes, dtype) in [(False, x) for x in SIZES] + [(True, x) for x in GATED_SIZES]:
        where = f"{', '.join(map(str, sizes))} {dtype}{' gated' * gated}"
        yield where, outputs_and_gradients, arguments(*sizes, dtype, gated=gated)
    for *sizes, dtype in LAYERS:
        where = f"one token, H, F {', '.join(map(str, sizes))} {dtype}"
        yield where, *one_token(*sizes, dtype)


def main() -> int:
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "MOSAIC_GPU_DUMP_PTXAS": "1",
        "MOSAIC_GPU_DUMP_HOST_LLVM": "1",
    }
    use_wheels_ptxas()
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="h200", topology="1x1x1", target_config=TARGET
    )
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    sharding = NamedSharding(mesh, PartitionSpec())
    print("| B, T, H, K, V | kernel | grid | threads | registers | spilled, B | shared, B | s |")
    print("|---|---|---|---|---|---|---|---|")
    failures = []
    for where, run, args in cases():
        try:
            with jax.sharding.use_abstract_mesh(MESH):
                traced = jax.jit(run).trace(*args)
            found_kernels = list(kernels(traced.jaxpr.jaxpr))
            if not found_kernels:
                failures.append(f"{where}: no kernel found")
            for name, equation in found_kernels:
                found = compile_kernel(equation, sharding)
                print(
                    f"| {where} | {name}{' (serialised)' if found['serialised'] else ''} "
                    f"| {found['grid']} | {found['threads']} | {found['registers']} "
                    f"| {found['spilled']} | {found['shared']} | {found['seconds']:.1f} |",
                    flush=True,
                )
                if found["spilled"] > SPILL_LIMIT:
                    failures.append(f"{where}: {name} spills {found['spilled']} bytes")
        except Exception as error:  # the other sizes are still worth knowing
            failures.append(f"{where}: {type(error).__name__}: {str(error)[:500]}")
    print(
        f"\n(serialised): wgmma waits for itself. Spills up to {SPILL_LIMIT} bytes a thread pass."
    )
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
