"""Norms of gradients, by sub-layer, and of updates, by matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from admin_init.measures.names import sublayer_name
from admin_init.nn.residual import ResidualConnection


def sublayer_of(parameter_name: str) -> str:
    """Return the group of a parameter: its sub-layer, or its module if it is in no layer.

    A sub-layer is a child of a numbered layer and includes its residual connection. In torch.nn's
    layers, the norms are children of the layer, so each norm is a group of its own.

    Args:
        parameter_name: Qualified name of the parameter in its model.

    Examples:
        >>> sublayer_of("encoder.layers.0.self_attn.out_proj.weight")
        'encoder.layers.0.self_attn'
        >>> sublayer_of("encoder.layers.0.self_attn_residual.norm.bias")
        'encoder.layers.0.self_attn'
    """
    parts = parameter_name.split(".")
    layers = [i for i, part in enumerate(parts[:-2]) if part.isdigit()]
    end = layers[0] + 2 if layers else max(1, len(parts) - 1)
    return sublayer_name(".".join(parts[:end]))


def gradient_norms(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Compute the 2-norm of the gradients of each sub-layer's parameters.

    Args:
        parameters: Names and parameters, as from ``model.named_parameters()``. Parameters without
            a gradient are ignored.

    Returns:
        One scalar tensor per group, see :func:`sublayer_of`.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> layer(torch.tensor([[3.0, 4.0]])).sum().backward()
        >>> gradient_norms([("layers.0.ffn.weight", layer.weight)])
        {'layers.0.ffn': tensor(5.)}
    """
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in parameters:
        if parameter.grad is not None:
            gradients.setdefault(sublayer_of(name), []).append(parameter.grad)
    return {group: nn.utils.get_total_norm(tensors) for group, tensors in gradients.items()}


@torch.no_grad()
def update_ratios(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Compute the relative size of updates, :math:`\|\Delta\theta\| / \|\theta\|`.

    Args:
        before: Matrices theta before the update, by name.
        after: The same matrices after the update.

    Returns:
        One scalar tensor per matrix.

    Examples:
        >>> update_ratios({"weight": torch.ones(2, 2)}, {"weight": 1.5 * torch.ones(2, 2)})
        {'weight': tensor(0.5000)}
    """
    old = list(before.values())
    if not old:
        return {}
    changes = torch._foreach_norm(torch._foreach_sub([after[name] for name in before], old))
    norms = torch._foreach_norm(old)
    ratios = (change / norm for change, norm in zip(changes, norms, strict=True))
    return dict(zip(before, ratios, strict=True))


def output_gradient_norms(model: nn.Module, run: Callable[[], Tensor]) -> dict[str, float]:
    """Compute the 2-norm of the gradient of the loss at every sub-layer's output.

    The output of a sub-layer is the input of the next one, after the residual connection. The
    parameters' ``.grad`` and the model's mode do not change; call ``model.eval()`` first to measure
    without dropout.

    Args:
        model: A model of :mod:`admin_init.nn`.
        run: Makes one forward pass through the model and returns the loss, a scalar.

    Returns:
        The norms by name of the sub-layer, such as ``encoder.layers.0.self_attn``, in the order of
        execution. Outputs that do not affect the loss are left out.
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
