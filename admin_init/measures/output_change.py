"""Output change caused by a small change of the weights (arXiv 2004.08249, section 4).

Shapes: N sequences, T tokens, D channels. The outputs before and after are nearly equal, so
rounding limits the accuracy: in float32, the squared change is accurate to 1e-4 at the default
``delta`` of the weights and to 0.2 % at the default ``step`` of the gradient step. Use
``model.double()`` for smaller changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from admin_init._utils.isolation import preserved
from admin_init.measures.names import sublayer_name
from admin_init.nn.residual import ResidualConnection


def weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights: all parameters with two or more dimensions.

    Biases, norms, omega and the gains of LayerScale and ReZero have fewer dimensions.

    Args:
        model: Any module. A shared weight is returned once.
    """
    return [parameter for parameter in model.parameters() if parameter.dim() >= 2]


@torch.no_grad()
def perturb_(model: nn.Module, delta: float, generator: torch.Generator) -> None:
    """Add ``delta * sign(n)``, with n from N(0, 1), to every element of every weight, in place.

    Args:
        model: Any module. Only its weights change, see :func:`weights`.
        delta: Size of the change.
        generator: Random generator of n, which is drawn on the generator's device.
    """
    for weight in weights(model):
        noise = torch.randn(weight.shape, generator=generator, device=generator.device)
        weight.add_(noise.sign().to(weight), alpha=delta)


def output_change(
    model: nn.Module,
    run: Callable[[], Tensor],
    *,
    delta: float = 1e-4,
    seed: int = 0,
    mask: Tensor | None = None,
) -> float:
    r"""Measure the squared output change :math:`\|F(x, W) - F(x, W^*)\|^2` of a perturbed model.

    Here :math:`W^* = W + \delta \operatorname{sign}(n)`, see :func:`perturb_`. In theory, the
    change is O(N) for Post-LN and O(log N) for Admin and Pre-LN in the number N of sub-layers.
    (The released code prints the norm, not its square.) Afterwards the model is the same, bit for
    bit.

    Args:
        model: The model that ``run`` calls. It runs in eval mode, without dropout.
        run: Returns F, shape (N, T, D).
        delta: Size of the change of each weight.
        seed: Seed of the random signs.
        mask: True for the tokens to measure, shape (N, T). Default: all tokens.

    Returns:
        Mean over tokens of the squared norm over channels.

    Raises:
        ValueError: ``mask`` has another shape than the tokens of F, or selects no token.

    Examples:
        >>> model = nn.Linear(4, 4)
        >>> x = torch.randn(2, 3, 4)
        >>> output_change(model, lambda: model(x)) > 0
        True
    """

    def perturb() -> None:
        perturb_(model, delta, torch.Generator().manual_seed(seed))

    with _undone(model), torch.no_grad():
        before = run().detach().clone()
        perturb()
        return _squared_change(before, run(), mask)


def gradient_step_change(
    model: nn.Module,
    run: Callable[[], Tensor],
    loss: Callable[[Tensor], Tensor],
    *,
    step: float = 1e-6,
    mask: Tensor | None = None,
) -> float:
    r"""Measure the squared output change caused by one step against the sign of the gradient.

    Like :func:`output_change`, with :math:`W^* = W - s \operatorname{sign}(\partial L/\partial W)`,
    the first step of Adam. The parameters' ``.grad`` is neither read nor written.

    Args:
        model: The model that ``run`` calls. It runs in eval mode, without dropout.
        run: Returns F, shape (N, T, D).
        loss: Computes the scalar L from F.
        step: Size s of the change of each weight.
        mask: True for the tokens to measure, shape (N, T). Default: all tokens.

    Returns:
        Mean over tokens of the squared norm over channels.

    Raises:
        ValueError: ``mask`` has another shape than the tokens of F, or selects no token.
    """
    with _undone(model):
        trained = [weight for weight in weights(model) if weight.requires_grad]
        with torch.enable_grad():
            before = run()
            gradients = torch.autograd.grad(loss(before), trained, allow_unused=True)
        with torch.no_grad():
            for weight, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    weight.sub_(gradient.sign(), alpha=step)
            return _squared_change(before.detach(), run(), mask)


def sublayer_output_changes(
    model: nn.Module, run: Callable[[], object], *, delta: float = 1e-4, seed: int = 0
) -> dict[str, float]:
    """Measure the squared change of every sub-layer's output, after its residual connection.

    Before and after the perturbation, the output is divided by its standard deviation over the
    channels of each token, so that residual streams that grow with depth (Pre-LN) are comparable
    with streams that do not.

    Args:
        model: A model of :mod:`admin_init.nn`. It runs in eval mode, without dropout.
        run: Makes one forward pass through the model; its return value is ignored.
        delta: Size of the change of each weight, see :func:`perturb_`.
        seed: Seed of the random signs.

    Returns:
        Mean over tokens of the squared norm over channels, by name of the sub-layer, such as
        ``encoder.layers.0.self_attn``, in the order of execution.

    Raises:
        ValueError: The model has no residual connection of :mod:`admin_init.nn`.
    """
    with _undone(model), torch.no_grad():
        before = _sublayer_outputs(model, run)
        perturb_(model, delta, torch.Generator().manual_seed(seed))
        after = _sublayer_outputs(model, run)
        return {name: _squared_change(before[name], after[name], None) for name in before}


@contextmanager
def _undone(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and restore mode and weights on exit."""
    before = [weight.detach().clone() for weight in weights(model)]
    with preserved(model):
        model.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(weights(model), before, strict=True):
                    weight.copy_(value)


def _squared_change(before: Tensor, after: Tensor, mask: Tensor | None) -> float:
    squares = (after.double() - before.double()).square().sum(-1)
    if mask is not None:
        if mask.shape != squares.shape or not mask.any():
            raise ValueError(
                f"`mask` must be True for some of the tokens of F, shape {tuple(squares.shape)}, "
                f"but has the shape {tuple(mask.shape)} and {int(mask.sum())} True."
            )
        squares = squares[mask]
    return float(squares.mean())


def _sublayer_outputs(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, ResidualConnection):

                def hook(module: nn.Module, args: object, output: Tensor, name: str = name) -> None:
                    x = output.detach().double()
                    outputs[sublayer_name(name)] = x / x.std(-1, correction=0, keepdim=True)

                stack.callback(module.register_forward_hook(hook).remove)
        run()
    if not outputs:
        raise ValueError(
            f"No residual connection of `admin_init.nn` ran in {type(model).__name__}, so its "
            "sub-layers are unknown. Use `output_change` on the whole model."
        )
    return outputs
