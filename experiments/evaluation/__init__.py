# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Zero-shot and recall tasks from local files, scored as lm-evaluation-harness scores them."""
