# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short depthwise causal convolution with activation and norm (see README.md here)."""
