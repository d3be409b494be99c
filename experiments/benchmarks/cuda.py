# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""CUDA events on anybody's stream, by the driver's C interface: one clock for JAX and PyTorch.

JAX does not show the stream it runs on. A foreign function does see it: a call without operands
or results of its own, put before and after the call to be timed, runs on that stream in order and
records an event there. PyTorch shows its stream; the same functions record there.
"""

import collections
import ctypes
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

_L2_CACHE_SIZE = 38  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
_NOT_READY = 600  # CUDA_ERROR_NOT_READY


@functools.cache
def _library() -> ctypes.CDLL:
    """libcuda, with JAX's context (the device's primary one) made current in this thread."""
    library = ctypes.CDLL("libcuda.so.1")
    library.cuGetErrorString.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
    _check(library, library.cuInit(0))
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(library, library.cuDeviceGet(ctypes.byref(device), 0))
    _check(library, library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    _check(library, library.cuCtxSetCurrent(context))
    return library


def _check(library: ctypes.CDLL, code: int) -> None:
    if code != 0:
        text = ctypes.c_char_p()
        library.cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"CUDA error {code}: {(text.value or b'unknown').decode()}")


def _call(name: str, *args) -> None:
    _check(_library(), getattr(_library(), name)(*args))


def l2_bytes() -> int:
    """Size of the second-level cache of device 0, bytes."""
    value, device = ctypes.c_int(), ctypes.c_int()
    _call("cuDeviceGet", ctypes.byref(device), 0)
    _call("cuDeviceGetAttribute", ctypes.byref(value), _L2_CACHE_SIZE, device)
    return value.value


class Event:
    """A point on a stream, with the time when the device reached it."""

    def __init__(self):
        self._handle = ctypes.c_void_p()
        _call("cuEventCreate", ctypes.byref(self._handle), 0)

    def record(self, stream: int) -> None:
        _call("cuEventRecord", self._handle, ctypes.c_void_p(stream))

    def reached(self) -> bool:
        """Whether the device is past it."""
        code = _library().cuEventQuery(self._handle)
        if code != _NOT_READY:
            _check(_library(), code)
        return code == 0

    def wait(self) -> None:
        _call("cuEventSynchronize", self._handle)

    def ms_since(self, start: "Event") -> float:
        """Milliseconds of the device's clock from `start` to here; both have been reached."""
        ms = ctypes.c_float()
        _call("cuEventElapsedTime", ctypes.byref(ms), start._handle, self._handle)
        return ms.value

    def __del__(self):
        _library().cuEventDestroy_v2(self._handle)


class Copy:
    """Two buffers on the device and copies of one onto the other: `size` bytes read and written."""

    def __init__(self, size: int):
        self.size = size
        self._buffers = (ctypes.c_uint64(), ctypes.c_uint64())
        for buffer in self._buffers:
            _call("cuMemAlloc_v2", ctypes.byref(buffer), ctypes.c_size_t(size))
            _call("cuMemsetD8_v2", buffer, ctypes.c_ubyte(85), ctypes.c_size_t(size))

    def enqueue(self, stream: int, times: int = 1) -> None:
        source, target = self._buffers
        size = ctypes.c_size_t(self.size)
        for _ in range(times):
            _call("cuMemcpyDtoDAsync_v2", target, source, size, ctypes.c_void_p(stream))


# XLA's foreign function interface, version 0.x: xla/ffi/api/c_api.h, shipped with jaxlib.
class _Version(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("version", _Version)]


class _Extension(ctypes.Structure):  # followed by the metadata where type is 1
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(_Metadata)),
    ]


class _StreamGetArguments(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    ]


_Function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


class _Interface(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("version", _Version),
        ("internal", ctypes.c_void_p),
        ("error_create", ctypes.c_void_p),
        ("error_get_details", ctypes.c_void_p),
        ("error_destroy", ctypes.c_void_p),
        ("handler_register", ctypes.c_void_p),
        ("stream_get", _Function),
    ]


class _Frame(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(_Extension)),
        ("interface", ctypes.POINTER(_Interface)),
        ("context", ctypes.c_void_p),
    ]


class JaxStream:
    """Runs Python functions of the stream, in order with the computations JAX dispatches."""

    _instance = None

    def __new__(cls):
        if cls._instance is None:  # a foreign function is registered once
            cls._instance = super().__new__(cls)
            cls._instance._register()
        return cls._instance

    def _register(self) -> None:
        self._waiting: collections.deque[Callable[[int], None]] = collections.deque()
        self._failures: list[BaseException] = []
        self._handler = _Function(self._handle)  # kept: XLA holds only its address
        address = ctypes.cast(self._handler, ctypes.c_void_p)
        name = "deltanet_jax_on_stream"
        platform = "CUDA" if jax.default_backend() == "gpu" else jax.default_backend()
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform=platform)
        nothing = jax.ShapeDtypeStruct((1,), jnp.int32)
        self._mark = jax.jit(lambda: jax.ffi.ffi_call(name, nothing, has_side_effect=True)())
        self.wait(None)  # compiles

    def _handle(self, frame_address: int) -> None:
        try:
            frame = _Frame.from_address(frame_address)
            if frame.extension and frame.extension.contents.type == 1:  # asked for the version
                version = frame.extension.contents.metadata.contents.version
                version.major, version.minor = 0, 1
                return
            self._waiting.popleft()(self._stream(frame))
        except BaseException as error:  # must not pass through XLA; `wait` raises it
            self._failures.append(error)

    def _stream(self, frame: _Frame) -> int:
        interface = frame.interface.contents
        if interface.version.major != 0 or interface.struct_size < ctypes.sizeof(_Interface):
            raise RuntimeError(f"XLA's FFI has version {interface.version.major}, wanted 0")
        if jax.default_backend() != "gpu":
            return 0
        arguments = _StreamGetArguments()
        arguments.struct_size = ctypes.sizeof(arguments)
        arguments.context = frame.context
        if interface.stream_get(ctypes.addressof(arguments)):
            raise RuntimeError("XLA's FFI did not give its stream")
        return arguments.stream or 0

    def do(self, action: Callable[[int], None]) -> None:
        """Calls `action(stream)` once everything dispatched before is on the stream."""
        self._waiting.append(action)
        self._mark()

    def wait(self, results: object) -> None:
        """Until `results` are there and all actions have run; raises what an action raised."""
        self._waiting.append(lambda stream: None)
        jax.block_until_ready((results, self._mark()))
        if self._failures:
            raise self._failures.pop()
        if self._waiting:
            raise RuntimeError(f"{len(self._waiting)} actions on JAX's stream did not run")


class TorchStream:
    """The same for PyTorch's current stream."""

    def do(self, action: Callable[[int], None]) -> None:
        import torch

        action(torch.cuda.current_stream().cuda_stream)

    def wait(self, results: object) -> None:
        import torch

        del results
        torch.cuda.synchronize()
