# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What we ran: flags, tasks, presets, commands. Library code lives in `deltanet_jax`."""
