# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark cases there are; a new operator adds its file and a line here."""

from experiments.benchmarks.delta_rule import (
    DELTA_RULE,
    DELTA_RULE_TRITON,
    DELTA_RULE_VS_RECURRENT,
)
from experiments.benchmarks.gated_delta_rule import GATED_DELTA_RULE
from experiments.benchmarks.l2_norm import L2_NORM
from experiments.benchmarks.short_conv import SHORT_CONV, SHORT_CONV_NORM, SHORT_CONV_SEGMENTS

OPERATIONS = {
    operation.name: operation
    for operation in (
        DELTA_RULE,
        DELTA_RULE_VS_RECURRENT,
        DELTA_RULE_TRITON,
        GATED_DELTA_RULE,
        SHORT_CONV,
        SHORT_CONV_NORM,
        SHORT_CONV_SEGMENTS,
        L2_NORM,
    )
}
