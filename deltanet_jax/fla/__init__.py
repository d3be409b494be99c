# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of flash-linear-attention (FLA) in Hugging Face's format, in and out.

Neither PyTorch nor FLA is needed; nothing of a folder is executed.
"""
