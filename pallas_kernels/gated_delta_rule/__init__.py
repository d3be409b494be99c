# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule: definition, chunkwise, kernels, one-token step (see README.md here)."""
