"""Weights of torch.nn's Transformer under the names of ours."""

from torch import Tensor

# Our names from torch.nn's. Its cross-attention packs query, key and value; ours key and value.
RENAMED = {
    "self_attn.in_proj_weight": "self_attn.in_proj.weight",
    "self_attn.in_proj_bias": "self_attn.in_proj.bias",
    "self_attn.out_proj": "self_attn.out_proj",
    "multihead_attn.out_proj": "cross_attn.out_proj",
    "linear1": "ffn.fc1",
    "linear2": "ffn.fc2",
    "norm1": "self_attn_residual.norm",
}


def from_torch(state: dict[str, Tensor], decoder: bool) -> dict[str, Tensor]:
    renamed = RENAMED | (
        {"norm2": "cross_attn_residual.norm", "norm3": "ffn_residual.norm"}
        if decoder
        else {"norm2": "ffn_residual.norm"}
    )
    ours = {}
    for name, tensor in state.items():
        if "multihead_attn.in_proj_" in name:
            prefix, kind = name.split("multihead_attn.in_proj_")
            dim = len(tensor) // 3
            ours[f"{prefix}cross_attn.q_proj.{kind}"] = tensor[:dim]
            ours[f"{prefix}cross_attn.kv_proj.{kind}"] = tensor[dim:]
            continue
        for old, new in renamed.items():
            if old in name:
                ours[name.replace(old, new)] = tensor
                break
        else:
            ours[name.replace("norm.", "end.norm.")] = tensor
    return ours
