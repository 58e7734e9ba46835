"""Norms of gradients and of updates, sub-layer by sub-layer and matrix by matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from admin_init.measures.names import sublayer_name
from admin_init.nn.residual import ResidualConnection


def sublayer_of(parameter_name: str) -> str:
    """Return the group of a parameter: its sub-layer, or outside of layers its module.

    A sub-layer is a child of a numbered layer, its residual connection included:
    ``encoder.layers.0.self_attn`` for ``encoder.layers.0.self_attn.out_proj.weight`` and for
    ``encoder.layers.0.self_attn_residual.norm.bias``. The norms of torch.nn's layers, which are
    children of the layer itself, stand alone.

    Args:
        parameter_name: Qualified name of the parameter in its model.
    """
    parts = parameter_name.split(".")
    layers = [i for i, part in enumerate(parts[:-2]) if part.isdigit()]
    end = layers[0] + 2 if layers else max(1, len(parts) - 1)
    return sublayer_name(".".join(parts[:end]))


def gradient_norms(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Compute the 2-norm of the gradients of each sub-layer's parameters.

    Args:
        parameters: Names and parameters, as ``model.named_parameters()`` yields them. Those that
            have no gradient are left out.

    Returns:
        A scalar tensor a group, see :func:`sublayer_of`.
    """
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in parameters:
        if parameter.grad is not None:
            gradients.setdefault(sublayer_of(name), []).append(parameter.grad)
    return {group: nn.utils.get_total_norm(tensors) for group, tensors in gradients.items()}


@torch.no_grad()
def update_ratios(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Compute the size of an update beside that of what it updates.

    It is :math:`\|\Delta\theta\| / \|\theta\|`, theta as it was before.

    Args:
        before: Matrices before the update, by name.
        after: The same, after it.

    Returns:
        A scalar tensor a matrix.
    """
    old = list(before.values())
    if not old:
        return {}
    changes = torch._foreach_norm(torch._foreach_sub([after[name] for name in before], old))
    norms = torch._foreach_norm(old)
    ratios = (change / norm for change, norm in zip(changes, norms, strict=True))
    return dict(zip(before, ratios, strict=True))


def output_gradient_norms(model: nn.Module, run: Callable[[], Tensor]) -> dict[str, float]:
    """Compute the 2-norm of the loss's gradient at every sub-layer's output.

    The output is what enters the next sub-layer. Gradients of parameters are left alone, and so is
    the model's mode: use ``model.eval()`` for a figure without dropout.

    Args:
        model: A model of :mod:`admin_init.nn`.
        run: Passes once through the model and returns the loss, a scalar.

    Returns:
        By the name of the sub-layer, such as ``encoder.layers.0.self_attn``, in the order of
        execution. An output that the loss does not depend on is left out.
    """
    outputs: dict[str, Tensor] = {}

    with ExitStack() as stack, torch.enable_grad():
        for name, module in model.named_modules():
            if isinstance(module, ResidualConnection):

                def hook(module: nn.Module, args: object, output: Tensor, name: str = name) -> None:
                    outputs[sublayer_name(name)] = output

                stack.callback(module.register_forward_hook(hook).remove)
        loss = run()
    gradients = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
    return {
        name: float(gradient.norm())
        for name, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None
    }
