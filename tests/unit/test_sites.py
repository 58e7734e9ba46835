from collections.abc import Callable

import pytest
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import admin_init
from admin_init.adapters import registry
from admin_init.adapters.discovery import find_sites
from admin_init.adapters.registry import register_adapter
from admin_init.errors import NotPostLNError, UnsupportedModelError
from admin_init.sites import ResidualSite, layer_stack, stacks

D = 16


def encoder_layer(norm_first: bool = False) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(D, 4, 32, batch_first=True, norm_first=norm_first)


def encoder(layers: int = 2) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(encoder_layer(), layers)


def transformer() -> nn.Transformer:
    return nn.Transformer(D, 4, 1, 2, 32, batch_first=True)


class Wrapper(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.inner = layer


def named(model: nn.Module) -> list[tuple[str, str]]:
    return [(site.name, site.stack) for site in find_sites(model)]


def test_sites_come_in_the_order_of_execution() -> None:
    assert named(transformer()) == [
        ("encoder.layers.0.self_attn", "encoder"),
        ("encoder.layers.0.ffn", "encoder"),
        ("decoder.layers.0.self_attn", "decoder"),
        ("decoder.layers.0.cross_attn", "decoder"),
        ("decoder.layers.0.ffn", "decoder"),
        ("decoder.layers.1.self_attn", "decoder"),
        ("decoder.layers.1.cross_attn", "decoder"),
        ("decoder.layers.1.ffn", "decoder"),
    ]


def test_every_site_knows_the_norm_after_it_and_the_site_before_it() -> None:
    model = transformer()
    sites = find_sites(model)
    norms = [site.norm for site in sites]
    layer = model.encoder.layers[0]
    assert norms[:2] == [layer.norm1, layer.norm2]
    layer = model.decoder.layers[1]
    assert norms[5:] == [layer.norm1, layer.norm2, layer.norm3]
    assert [site.previous for site in sites] == [None, sites[0], None, *sites[2:7]]
    assert {site.width for site in sites} == {D}
    assert not any(site.installed for site in sites)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (encoder_layer, [("self_attn", "encoder"), ("ffn", "encoder")]),
        (lambda: nn.Sequential(nn.Linear(3, D), encoder(1)), [("1.layers.0.self_attn", "1")]),
        (lambda: nn.Sequential(nn.Sequential(encoder(1))), [("0.0.layers.0.self_attn", "0.0")]),
        (lambda: nn.ModuleDict({"net": encoder(1)}), [("net.layers.0.self_attn", "net")]),
        (lambda: nn.ModuleDict({"blocks": nn.ModuleList([encoder_layer()])}), [
            ("blocks.0.self_attn", "blocks"),
        ]),
    ],
)  # fmt: skip
def test_names_of_small_models(
    build: Callable[[], nn.Module], expected: list[tuple[str, str]]
) -> None:
    assert named(build())[: len(expected)] == expected


def test_two_encoders_are_two_stacks() -> None:
    model = nn.ModuleDict({"text": encoder(), "image": encoder()})
    assert list(stacks(find_sites(model))) == ["text", "image"]


def test_stacks_of_the_same_name_keep_their_paths() -> None:
    model = nn.ModuleDict({"left": transformer(), "right": transformer()})
    assert list(stacks(find_sites(model))) == [
        "left.encoder",
        "left.decoder",
        "right.encoder",
        "right.decoder",
    ]


@pytest.mark.parametrize("wrap", [Wrapper, checkpoint_wrapper])
def test_wrapped_layers_still_make_one_stack(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = encoder(3)
    for i in range(3):
        model.layers[i] = wrap(model.layers[i])
    sites = find_sites(model)
    assert {site.stack for site in sites} == {"encoder"}
    assert [site.previous for site in sites] == [None, *sites[:-1]]


def test_a_model_under_two_names_is_found_once() -> None:
    model = nn.Module()
    model.network = encoder()
    model.alias = model.network
    model.first_layer = model.network.layers[0]
    assert len(find_sites(model)) == 4


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("", "default"),
        ("text", "text"),
        ("layers.0", "default"),
        ("model.encoder.layers.0", "model.encoder"),
        ("blocks.3", "blocks"),
        ("encoder.first", "encoder.first"),
        ("encoder.layer_2", "encoder.layer"),
        ("encoder.layers.0._orig_mod", "encoder"),
        ("bert.encoder.layer.0", "bert.encoder"),
        ("layer.0", "default"),
        ("towers.1.layers.10._fsdp_wrapped_module", "towers.1"),
    ],
)
def test_stack_of_a_layer(name: str, stack: str) -> None:
    assert layer_stack(name, "default") == stack


def test_a_pre_ln_model_is_refused_with_what_was_found_and_what_to_do() -> None:
    model = nn.TransformerEncoder(encoder_layer(norm_first=True), 4, enable_nested_tensor=False)
    with pytest.raises(NotPostLNError, match=r"`layers.0` is Pre-LN.*norm_first=False"):
        find_sites(model)


def test_pre_ln_layers_beside_post_ln_layers_are_left_out() -> None:
    model = nn.ModuleDict({"pre": encoder_layer(norm_first=True), "post": encoder_layer()})
    assert [site.name for site in find_sites(model)] == ["post.self_attn", "post.ffn"]


def test_a_model_without_residual_connections_is_refused_with_the_known_layers() -> None:
    with pytest.raises(UnsupportedModelError, match=r"in Sequential.*TransformerEncoderLayer"):
        find_sites(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("container", [nn.ModuleList, lambda layers: nn.Sequential(*layers)])
def test_one_layer_at_several_depths_is_refused(
    container: Callable[[list[nn.Module]], nn.Module],
) -> None:
    model = nn.ModuleDict({"albert": container([encoder_layer()] * 4)})
    with pytest.raises(
        UnsupportedModelError, match=r"TransformerEncoderLayer, 4 times in `albert`.*one layer per"
    ):
        find_sites(model)


def test_a_norm_without_gain_is_refused() -> None:
    model = encoder(1)
    model.layers[0].norm2 = nn.LayerNorm(D, elementwise_affine=False)
    with pytest.raises(UnsupportedModelError, match=r"norm after `layers.0.ffn` has no gain"):
        admin_init.install_(model)


def test_an_adapter_serves_subclasses_and_is_registered_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry._ADAPTERS))

    class Block(nn.Module):
        pass

    class Special(Block):
        pass

    def adapter(
        layer: nn.Module, name: str, model: nn.Module
    ) -> list[ResidualSite]:  # fmt: skip
        inner = registry._ADAPTERS[nn.TransformerEncoderLayer]
        return inner(layer.get_submodule("layer"), f"{name}.layer", model)

    register_adapter(Block)(adapter)
    block = Special()
    block.layer = encoder_layer()
    # Both the block's adapter and that of the layer inside find sites: the block's come first.
    assert named(nn.ModuleList([block]))[0] == ("0.layer.self_attn", "encoder")
    with pytest.raises(ValueError, match=r"Block` already has an adapter"):
        register_adapter(Block)(adapter)
