# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Token mixers, one file each; registry.py lists them, base.py is their contract."""
