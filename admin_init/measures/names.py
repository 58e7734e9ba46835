"""Names of sub-layers and stacks in measurements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from admin_init.sites import layer_stack

_CONNECTION = re.compile(r"(_residual)?([._]skip)?$")

_TORCH_NN = {"multihead_attn": "cross_attn", "linear1": "ffn", "linear2": "ffn"}
"""Sub-layers to which children of torch.nn's layers belong."""


def sublayer_name(module_name: str) -> str:
    """Return the sub-layer of a residual connection, its sum, or a child of a layer.

    Args:
        module_name: Qualified name of the module in its model.

    Examples:
        >>> sublayer_name("encoder.layers.0.self_attn_residual.skip")
        'encoder.layers.0.self_attn'
        >>> sublayer_name("layers.0.linear1")
        'layers.0.ffn'
    """
    layer, dot, child = _CONNECTION.sub("", module_name).rpartition(".")
    return f"{layer}{dot}{_TORCH_NN.get(child, child)}"


def stack_names(names: Iterable[str]) -> dict[str, str]:
    """Map the name of each sub-layer to its stack, shortened if that is unambiguous.

    Args:
        names: Qualified names of sub-layers.

    Examples:
        >>> stack_names(["transformer.encoder.layers.0.self_attn"])
        {'transformer.encoder.layers.0.self_attn': 'encoder'}
    """
    paths = {name: layer_stack(name, "stack") for name in names}
    ends = Counter(path.rpartition(".")[2] for path in set(paths.values()))
    return {
        name: end if ends[end := path.rpartition(".")[2]] == 1 else path
        for name, path in paths.items()
    }
