# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""State tracking: words over automata whose state must be carried (see README.md here)."""
