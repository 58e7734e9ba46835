"""Measures of training stability: pure functions, each with its definition and source."""

from admin_init.measures.attention import attention_entropy, largest_attention_logit, output_log_z
from admin_init.measures.dependency import Term, branch_share, branch_terms, layer_dependency
from admin_init.measures.depth_fits import Fit, Fits, depth_fits, growth_exponent
from admin_init.measures.gradients import gradient_norms, output_gradient_norms, update_ratios
from admin_init.measures.learning_rate import RAMP_PEAK, LargestStableRate, lr_sensitivity
from admin_init.measures.output_change import (
    gradient_step_change,
    output_change,
    perturb_,
    sublayer_output_changes,
)
from admin_init.measures.spikes import SpikeDetector

__all__ = [
    "RAMP_PEAK",
    "Fit",
    "Fits",
    "LargestStableRate",
    "SpikeDetector",
    "Term",
    "attention_entropy",
    "branch_share",
    "branch_terms",
    "depth_fits",
    "gradient_norms",
    "gradient_step_change",
    "growth_exponent",
    "largest_attention_logit",
    "layer_dependency",
    "lr_sensitivity",
    "output_change",
    "output_gradient_norms",
    "output_log_z",
    "perturb_",
    "sublayer_output_changes",
    "update_ratios",
]
