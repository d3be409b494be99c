# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One policy for dtypes: what is multiplied, what is accumulated, what the state is kept in.

| inputs            | product of two inputs | products with anything computed    | sums, state |
|-------------------|-----------------------|------------------------------------|-------------|
| float32           | float32               | float32                            | float32     |
| bfloat16, float16 | as they are           | float32, on GPUs and TPUs shortened (tf32) | float32 |
| float64           | float64               | float64                            | float64     |

So nothing computed is rounded to 16 bits before the output. That matters: with keys that repeat
and beta near 2 the inverse of the WY form amplifies such roundings (experiments/LOG.md). And
float32 in means float32 accuracy out: never a silent tf32.
"""

import jax
import jax.numpy as jnp


def state_dtype(input_dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype of states, sums and inverses for inputs of `input_dtype`."""
    return jnp.dtype(jnp.float64 if jnp.dtype(input_dtype) == jnp.float64 else jnp.float32)


def matmul(
    subscripts: str, x: jax.Array, y: jax.Array, *, input_dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Einsum of two operands under the policy above; sums and result in the state dtype.

    `input_dtype` is the dtype of the operator's inputs, not of `x` and `y`.
    """
    if x.dtype != y.dtype:
        x, y = x.astype(state_dtype(input_dtype)), y.astype(state_dtype(input_dtype))
    half = jnp.dtype(input_dtype).itemsize == 2
    return jnp.einsum(
        subscripts,
        x,
        y,
        precision=jax.lax.Precision.DEFAULT if half else jax.lax.Precision.HIGHEST,
        preferred_element_type=state_dtype(input_dtype),
    )
