"""Faster inference on CPUs: the largest matrix products use oneDNN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admin_init.nn.feed_forward import FeedForward
from admin_init.nn.transformer import Transformer


@torch.inference_mode(False)  # or the new tensors could only be used in that mode
@torch.no_grad()
def prepare_for_inference_(model: Transformer) -> Transformer:
    """Use oneDNN in the feed-forward networks and in the output projection, in place.

    For float32, torch uses another library, which takes a fifth longer for these products. The
    weights are copied into oneDNN's layout, so afterwards the model can only run: it cannot be
    trained, moved, cast, copied or saved. Hooks on the replaced modules are lost.

    Args:
        model: The model, which is switched to eval mode. Its modules are replaced only if its
            weights are float32 on a CPU, torch supports oneDNN there, and autocast is off.

    Returns:
        The model.
    """
    model.eval()
    weight = model.output_proj.weight
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    cast = torch.is_autocast_enabled("cpu")
    if available and weight.is_cpu and weight.dtype == torch.float32 and not cast:
        for layer in (*model.encoder.layers, *model.decoder.layers):
            if isinstance(layer.ffn, FeedForward) and layer.ffn.inner_norm is None:
                layer.ffn = OneDNNFeedForward(layer.ffn)
        if isinstance(model.output_proj, nn.Linear):
            model.register_module("output_proj", OneDNNLinear(model.output_proj))
    return model


@contextmanager
def prepared_for_inference(model: Transformer) -> Iterator[None]:
    """Prepare a model until exit, see :func:`prepare_for_inference_`, and then restore it.

    Copying the weights takes a hundredth of the time of the beam search for a batch.
    """
    training = [module for module in model.modules() if module.training]
    layers: tuple[nn.Module, ...] = (*model.encoder.layers, *model.decoder.layers)
    kept = [(layer, "ffn", layer.get_submodule("ffn")) for layer in layers]
    kept.append((model, "output_proj", model.output_proj))
    try:
        prepare_for_inference_(model)
        yield
    finally:
        for owner, name, module in kept:
            owner.register_module(name, module)
        for module in training:
            module.training = True


class OneDNNLinear(nn.Module):
    """A linear layer computed by oneDNN, for inference only.

    Args:
        linear: The layer, with float32 weights on a CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = linear.weight.detach().to_mkldnn()
        self.bias = None if linear.bias is None else linear.bias.detach().to_mkldnn()

    def forward(self, x: Tensor) -> Tensor:
        """Transform (..., in_features) to (..., out_features)."""
        return self.multiply(x.to_mkldnn()).to_dense()

    def multiply(self, x: Tensor) -> Tensor:
        """Apply the layer to a tensor in oneDNN's layout."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the settings that ``nn.Linear`` shows."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class OneDNNFeedForward(nn.Module):
    """A feed-forward network computed by oneDNN, for inference only.

    Args:
        ffn: The network, with float32 weights on a CPU and no inner norm, which does not support
            oneDNN's layout.
    """

    def __init__(self, ffn: FeedForward) -> None:
        super().__init__()
        self.fc1 = OneDNNLinear(ffn.fc1)
        self.fc2 = OneDNNLinear(ffn.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, T, D) to (N, T, D)."""
        return self.fc2.multiply(self.fc1.multiply(x.to_mkldnn()).relu_()).to_dense()
