# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Faults that are caused on purpose, and what came of them: python -m experiments.faults.run"""
