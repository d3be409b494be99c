# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of values for `jax.checkpoint`'s policies."""

# What an operator's forward pass keeps for its backward pass beside its inputs.
RESIDUALS = "operator_residuals"
