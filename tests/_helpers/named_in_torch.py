"""The residual connections of torch.nn's Transformer, named."""

from torch import nn

from admin_init.adapters.patterns import SitePattern, named_sites
from admin_init.sites import ResidualSite


def sites_by_name(model: nn.Module) -> list[ResidualSite]:
    def pattern(stack: str, index: int, linear: str) -> SitePattern:
        names = (f"dropout{index}", linear, f"norm{index}")
        branch, linear, norm = (f"{stack}.layers.*.{name}" for name in names)
        return SitePattern(branch=branch, linear=linear, norm=norm)

    return named_sites(
        model,
        [
            pattern("encoder", 1, "self_attn.out_proj"),
            pattern("encoder", 2, "linear2"),
            pattern("decoder", 1, "self_attn.out_proj"),
            pattern("decoder", 2, "multihead_attn.out_proj"),
            pattern("decoder", 3, "linear2"),
        ],
    )
