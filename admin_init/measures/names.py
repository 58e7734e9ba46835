"""What the sub-layers of a model are called in measurements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from admin_init.sites import layer_stack

_CONNECTION = re.compile(r"(_residual)?([._]skip)?$")

_TORCH_NN = {"multihead_attn": "cross_attn", "linear1": "ffn", "linear2": "ffn"}
"""What the layers of torch.nn call the parts of their sub-layers."""


def sublayer_name(module_name: str) -> str:
    """Return the sub-layer that a residual connection, its sum, or a child of a layer belongs to.

    ``encoder.layers.0.self_attn`` for ``encoder.layers.0.self_attn_residual.skip``, and
    ``layers.0.ffn`` for ``layers.0.linear1`` of torch.nn.

    Args:
        module_name: Qualified name of the module in its model.
    """
    layer, dot, child = _CONNECTION.sub("", module_name).rpartition(".")
    return f"{layer}{dot}{_TORCH_NN.get(child, child)}"


def stack_names(names: Iterable[str]) -> dict[str, str]:
    """Return the stack that each sub-layer belongs to.

    ``encoder`` for ``transformer.encoder.layers.0.self_attn``, unless the model has several stacks
    that end in this name.

    Args:
        names: Qualified names of sub-layers.
    """
    paths = {name: layer_stack(name, "stack") for name in names}
    ends = Counter(path.rpartition(".")[2] for path in set(paths.values()))
    return {
        name: end if ends[end := path.rpartition(".")[2]] == 1 else path
        for name, path in paths.items()
    }
