"""One file a family of layers; importing this package registers them all."""

from admin_init.adapters import torch_nn

__all__ = ["torch_nn"]
