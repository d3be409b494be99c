# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs Triton kernels in Triton's interpreter, on JAX's CPU arrays, in place of jax-triton.

The interpreter expects PyTorch's tensors and knows bfloat16 as uint16; what it asks of them stands
here, and products and roundings of bfloat16 as a GPU makes them.
"""

import contextlib
import importlib
import re
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

KERNELS = re.compile(r"pallas_kernels\.\w+\.triton_\w+")


class _Tensor:
    """A NumPy array with the methods of torch.Tensor that the interpreter calls."""

    def __init__(self, array):
        self.array = array
        self.dtype = array.dtype.name

    def data_ptr(self):
        return self.array.ctypes.data

    def untyped_storage(self):
        return self

    def cpu(self):
        return self

    def new_empty(self, size, device):
        return self

    def set_(self, *storage):
        pass

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    def stride(self):
        return ()

    def copy_(self, other):
        assert other is self


def _bfloat16_as_on_a_gpu(interpreter, tl):
    def wide(x):
        if x.dtype.scalar != tl.bfloat16:
            return x.data
        return x.data.view(ml_dtypes.bfloat16).astype(np.float32)

    builder = interpreter.InterpreterBuilder
    cast = builder.cast_impl

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        product = np.matmul(wide(a), wide(b), dtype=d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    def cast_impl(self, x, dtype):
        if x.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
            data = x.data.astype(ml_dtypes.bfloat16).view(np.uint16)
            return interpreter.TensorHandle(data, tl.bfloat16)
        return cast(self, x, dtype)

    return {"create_dot": create_dot, "cast_impl": cast_impl}


def launch(kernel, *arguments, out, grid, tile, capability, aliases=None, **constants):
    """Stands for triton_launch.launch; outputs are NaN until the kernel writes them, or where they
    are written over an argument, that argument."""
    del tile, capability
    scalars = {i: x for i, x in enumerate(arguments) if isinstance(x, int | float)}

    def run(*arrays):
        arrays = [np.array(x) for x in arrays]
        left = iter(arrays)
        given = [scalars[i] if i in scalars else next(left) for i in range(len(arguments))]
        results = [np.full(x.shape, np.nan, x.dtype) for x in out]
        for source, target in (aliases or {}).items():
            results[target] = arrays[source]
        pointers = [x if np.isscalar(x) else _Tensor(x) for x in (*given, *results)]
        kernel[grid](*pointers, **constants)
        return results

    arrays = [x for i, x in enumerate(arguments) if i not in scalars]
    return jax.pure_callback(run, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out], *arrays)


def lose(module, monkeypatch, kernel, result):
    """Of an `interpreted` module: what `kernel` hands on as its output number `result` is zeros."""
    run = module.triton_launch.launch

    def losing(function, *arguments, **options):
        results = run(function, *arguments, **options)
        if function.fn.__name__ == kernel:
            results[result] = jnp.zeros_like(results[result])
        return results

    monkeypatch.setattr(module.triton_launch, "launch", losing)


def _replacements():
    """(owner, attribute, what it becomes) of what Triton has to be otherwise meanwhile."""
    import triton
    import triton.language as tl
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def numpy_2_scalars(tensor, scope):  # they are arrays of one element there
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    yield triton.knobs.runtime, "interpret", True
    yield interpreter, "_patch_lang_tensor", numpy_2_scalars
    for name, function in _bfloat16_as_on_a_gpu(interpreter, tl).items():
        yield interpreter.InterpreterBuilder, name, function
    for module in (tl, tl.standard):  # compiled when Triton was imported: tl.sum and the like
        for name, function in list(vars(module).items()):
            if isinstance(function, triton.JITFunction):
                yield module, name, interpreter.InterpretedFunction(function.fn)


def _forget() -> dict[str, object]:
    """Takes the kernels' modules out of sys.modules and out of their packages."""
    found = {name: sys.modules.pop(name) for name in list(sys.modules) if KERNELS.match(name)}
    for name in found:
        package, _, attribute = name.rpartition(".")
        vars(sys.modules[package]).pop(attribute, None)
    return found


@contextlib.contextmanager
def interpreted(module_name: str = "pallas_kernels.delta_rule.triton_vjp"):
    """That module, whose kernels are interpreted; all is as before afterwards."""
    kept = _forget()
    with contextlib.ExitStack() as stack:
        for owner, name, value in _replacements():
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        try:
            module = importlib.import_module(module_name)
            stack.callback(setattr, module.triton_launch, "launch", module.triton_launch.launch)
            module.triton_launch.launch = launch
            yield module
        finally:
            _forget()
            for name, module in kept.items():
                sys.modules[name] = module
                package, _, attribute = name.rpartition(".")
                setattr(sys.modules[package], attribute, module)
