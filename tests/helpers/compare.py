# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The only comparator of arrays: RMS ratio, finiteness, shape, dtype. One table of bounds."""

import jax
import numpy as np

# Largest RMS ratio against float64, by the dtype of the inputs. The errors measured at the grid
# of test_chunked.py are about 10 times below for float32, 4 times for bfloat16 (LOG.md).
BOUNDS = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}


def rms_ratio(actual, wanted) -> float:
    """||actual - wanted|| / ||wanted||, in float64; ||actual|| if `wanted` is all zero."""
    actual, wanted = np.asarray(actual, np.float64), np.asarray(wanted, np.float64)
    scale = np.linalg.norm(wanted)
    return float(np.linalg.norm(actual - wanted) / (scale if scale > 0 else 1.0))


def assert_close(name: str, actual, wanted, bound: float) -> None:
    """Fails unless `actual` is finite, of the same shape, and within `bound` by RMS ratio."""
    assert actual.shape == wanted.shape, f"{name}: shape {actual.shape}, wanted {wanted.shape}"
    if actual.size == 0:
        return
    assert np.isfinite(np.asarray(actual, np.float64)).all(), f"{name}: not finite"
    error = rms_ratio(actual, wanted)
    assert error <= bound, f"{name}: RMS ratio {error:.2e}, bound {bound:.0e}"


def equal_bits(a, b) -> bool:
    """Whether two trees of arrays have the same structure, shapes, dtypes and bytes."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False

    def same(x, y):
        return (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())

    pairs = zip(*(map(np.asarray, jax.tree.leaves(t)) for t in (a, b)), strict=True)
    return all(same(x, y) for x, y in pairs)
