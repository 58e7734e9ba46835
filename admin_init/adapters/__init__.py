"""One file a family of layers; importing this package registers all but fairseq's.

Those of fairseq need it, and register once it is loaded.
"""

from admin_init.adapters import huggingface, native, torch_nn

__all__ = ["huggingface", "native", "torch_nn"]
