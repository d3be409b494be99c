# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Linear attention with decay: definition, chunkwise form (see README.md here)."""
