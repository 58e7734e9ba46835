"""Measures of one optimizer step, for :class:`StabilityMonitor`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from admin_init._utils.isolation import in_trial_pass
from admin_init.measures.attention import largest_attention_logit, output_log_z
from admin_init.measures.attention_hooks import observe_attention
from admin_init.measures.dependency import observe_terms
from admin_init.measures.gradients import gradient_norms, update_ratios
from admin_init.measures.names import stack_names

_OUTPUTS = re.compile(r"(.*\.)?(output_proj|output_projection|lm_head)")
"""Names of the modules that output the logits: ours, fairseq's and Hugging Face's."""


class MonitoredStep:
    """Measures one optimizer step: the forward passes with hooks, the update on the parameters.

    Values stay on their device until :meth:`rows` reads all of them at once.

    Args:
        model: Any module.
        output: Name of the module that outputs the logits. Default: the first module named
            ``output_proj``, ``output_projection`` or ``lm_head``.
    """

    def __init__(self, model: nn.Module, output: str | None = None) -> None:
        self.model = model
        self.updated = False
        """Whether :meth:`before_update` was called."""
        self._values: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        try:
            self._observe(output)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the hooks, if there are any."""
        while self._handles:
            self._handles.pop().remove()

    @torch.no_grad()
    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure the gradients of the optimizer's parameters, and copy its matrices."""
        self.updated = True
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = [(name, p) for name, p in self.model.named_parameters() if id(p) in own]
        for group, norm in gradient_norms(named).items():
            self._values[f"grad_norm/{group}"] = norm
        matrices = [(name, p) for name, p in named if p.dim() >= 2 and p.grad is not None]
        self._before |= {name: p.detach().clone() for name, p in matrices}

    def rows(self) -> dict[str, float]:
        """Return all measures by name; to be called after the update."""
        after = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        ratios = update_ratios(self._before, after)
        values = {f"update_ratio/{name}": ratio for name, ratio in ratios.items()} | self._values
        # A single transfer from the device.
        read = torch.stack([value.float() for value in values.values()]).tolist() if values else []
        rows = dict(zip(values, read, strict=True))
        return rows | _by_stack({name: rows[f"update_ratio/{name}"] for name in ratios})

    def _observe(self, output: str | None) -> None:
        self._handles += observe_terms(self.model, self._see_terms)
        self._handles += observe_attention(self.model, self._see_attention)
        for module in self._outputs(output):
            self._handles.append(module.register_forward_hook(self._see_logits))

    def _outputs(self, name: str | None) -> Iterable[nn.Module]:
        if name is not None:
            return [self.model.get_submodule(name)]
        return [m for name, m in self.model.named_modules() if _OUTPUTS.fullmatch(name)][:1]

    def _see_terms(self, name: str, shortcut: Tensor, branch: Tensor) -> None:
        self._values[f"branch_share/{name}"] = (branch / (shortcut + branch)).sqrt()

    def _see_attention(self, name: str, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        self._values[f"attention_logit/{name}"] = largest_attention_logit(query, key, mask)

    @torch.no_grad()
    def _see_logits(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if not (torch.compiler.is_compiling() or in_trial_pass()):
            self._values["log_z"] = output_log_z(output)


def _by_stack(ratios: Mapping[str, float]) -> dict[str, float]:
    layered = [name for name in ratios if any(part.isdigit() for part in name.split("."))]
    stacks: dict[str, list[float]] = {}
    for name, stack in stack_names(layered).items():
        stacks.setdefault(stack, []).append(ratios[name])
    return {
        f"update_ratio_{what}/{stack}": measure(values)
        for stack, values in stacks.items()
        for what, measure in (("max", max), ("median", statistics.median))
    }
