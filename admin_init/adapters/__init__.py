"""One file a family of layers; importing this package registers them all."""

from admin_init.adapters import native, torch_nn

__all__ = ["native", "torch_nn"]
