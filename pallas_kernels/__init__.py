# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Operators of linear-time sequence models as pure functions of arrays."""

from pallas_kernels.decoding.delta_net_step import DeltaNetStep as DeltaNetStep
from pallas_kernels.decoding.delta_net_step import delta_net_step as delta_net_step
from pallas_kernels.decoding.row_product import row_product as row_product
from pallas_kernels.delta_rule.api import DeltaRuleOutput as DeltaRuleOutput
from pallas_kernels.delta_rule.api import delta_rule as delta_rule
from pallas_kernels.delta_rule.sharded import delta_rule_sharded as delta_rule_sharded
from pallas_kernels.delta_rule.step import delta_rule_step as delta_rule_step
from pallas_kernels.gated_delta_rule.api import gated_delta_rule as gated_delta_rule
from pallas_kernels.gated_delta_rule.sharded import (
    gated_delta_rule_sharded as gated_delta_rule_sharded,
)
from pallas_kernels.gated_delta_rule.step import gated_delta_rule_step as gated_delta_rule_step
from pallas_kernels.gated_linear_attention.api import (
    gated_linear_attention as gated_linear_attention,
)
from pallas_kernels.gated_linear_attention.sharded import (
    gated_linear_attention_sharded as gated_linear_attention_sharded,
)
from pallas_kernels.gated_linear_attention.step import (
    gated_linear_attention_step as gated_linear_attention_step,
)
from pallas_kernels.linear_attention import linear_attention as linear_attention
from pallas_kernels.selective_scan.api import selective_scan as selective_scan
from pallas_kernels.selective_scan.api import selective_scan_step as selective_scan_step
from pallas_kernels.selective_scan.sharded import selective_scan_sharded as selective_scan_sharded
from pallas_kernels.short_conv.api import short_conv as short_conv
from pallas_kernels.short_conv.sharded import short_conv_sharded as short_conv_sharded
from pallas_kernels.wkv import WKVState as WKVState
from pallas_kernels.wkv import wkv as wkv
from pallas_kernels.wkv import wkv_empty_state as wkv_empty_state
from pallas_kernels.wkv import wkv_step as wkv_step
