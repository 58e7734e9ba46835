"""``nn.TransformerEncoder`` without nested tensors, which only its fused kernel can take."""

from __future__ import annotations

from torch import nn

from admin_init.adapters.class_swap import ClassSwap, restore_class_, swap_class_


class PaddedEncoder(ClassSwap):
    """Keeps padded batches as they are."""

    use_nested_tensor = property(lambda self: False)


def keep_padding_(encoder: nn.TransformerEncoder | None) -> None:
    """Let an encoder whose layers have omegas pass padded batches on as they are."""
    if encoder is not None:
        swap_class_(encoder, PaddedEncoder)


def restore_padding_(encoder: nn.TransformerEncoder | None) -> None:
    """Give an encoder its own class back when no module in it has an omega any more."""
    if encoder is not None and not any("omega" in m._parameters for m in encoder.modules()):
        restore_class_(encoder)
