"""One file a family of layers; importing this package registers those of our own and torch.nn's.

A family of another library, such as fairseq, has the library's name and registers once that is
loaded.
"""

from admin_init.adapters import native, torch_nn

__all__ = ["native", "torch_nn"]
