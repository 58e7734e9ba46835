import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _helpers.perturb import perturb_, train_omegas_
from _helpers.plain_post_ln import SubLayer
from _helpers.small_encoder import D, encoder, layer
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import admin_init
from admin_init import FoldError
from admin_init.adapters.discovery import find_sites


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


class Prefixed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Tensor) -> Any:
        return self.model(*args)


class OwnLayer(nn.TransformerEncoderLayer):
    """A user's layer with more to it than torch's."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.colour = "red"
        self.extra = nn.Parameter(torch.zeros(3))


def own_encoder() -> nn.Module:
    return nn.TransformerEncoder(OwnLayer(D, 4, 32, 0.0, batch_first=True), 2)


def decoder(**options: Any) -> nn.TransformerDecoder:
    options = {"dropout": 0.0, "batch_first": True, **options}
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(D, 4, 32, **options), 2)


def transformer(**options: Any) -> nn.Transformer:
    return nn.Transformer(D, 4, 2, 3, 32, **{"dropout": 0.0, "batch_first": True, **options})


def rms_encoder() -> nn.Module:
    model = encoder(2)
    for block in model.layers:
        block.norm1, block.norm2 = nn.RMSNorm(D), nn.RMSNorm(D)
    return model


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "transformer": transformer,
    "transformer, sequence first": lambda: transformer(batch_first=False),
    "transformer, bias=False": lambda: transformer(bias=False),
    "transformer, gelu": lambda: transformer(activation="gelu"),
    "transformer, callable": lambda: transformer(activation=F.silu),
    "transformer, module": lambda: transformer(activation=nn.Mish()),
    "encoder": encoder,
    "encoder, sequence first": lambda: encoder(batch_first=False),
    "encoder, one layer": lambda: encoder(1),
    "encoder, norm at the end": lambda: nn.TransformerEncoder(layer(), 2, nn.LayerNorm(D)),
    "encoder, own layer": own_encoder,
    "encoder, RMS norm": rms_encoder,
    "list of layers": lambda: nn.Sequential(layer(), layer()),
    "layer": layer,
    "decoder": decoder,
    "decoder, bias=False": lambda: decoder(bias=False),
    "decoder, sequence first": lambda: decoder(batch_first=False),
}


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    decodes = isinstance(model, nn.Transformer | nn.TransformerDecoder)
    output: Tensor = model(x.flip(1), x) if decodes else model(x)
    return output


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fold_keeps_outputs_and_leaves_a_plain_model(
    name: str, dtype: torch.dtype, x: Tensor
) -> None:
    torch.manual_seed(2)
    model = BUILDS[name]().to(dtype)
    perturb_(model)
    x = x.to(dtype)
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    plain = outputs(model, x)
    admin_init.install_(model)
    train_omegas_(model)
    expected = outputs(model, x)
    # The omegas matter, or the rest would be compared in vain.
    assert (expected - plain).abs().max() > 0.1
    assert admin_init.fold_(model) is model
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(outputs(model, x), expected, atol=tolerance, rtol=tolerance)
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert not any(site.installed for site in find_sites(model))


def test_a_folded_model_loads_into_a_plain_one(x: Tensor) -> None:
    model = admin_init.install_(encoder())
    train_omegas_(model)
    expected = model(x)
    admin_init.fold_(model)
    plain = encoder()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(x), expected, atol=1e-5, rtol=1e-5)


def test_fold_right_after_apply(x: Tensor) -> None:
    model = encoder()
    admin_init.apply_(model, admin_init.profile(model, [x]))
    expected = model(x)
    torch.testing.assert_close(admin_init.fold_(model)(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", ["log", "constant", "share"])
def test_fold_of_a_first_omega_that_is_not_one_divides_the_first_branch(rule: Any) -> None:
    # There is no norm before the first sub-layer: exact up to the eps of the one after it.
    torch.manual_seed(0)
    x = torch.randn(3, 5, D, dtype=torch.float64)
    model = encoder().double()
    profile = admin_init.profile(model, [x], rule=rule)
    assert profile.sites[0].omega != 1
    admin_init.apply_(model, profile)
    expected = model(x)
    torch.testing.assert_close(admin_init.fold_(model)(x), expected, atol=1e-4, rtol=1e-4)


def test_fold_without_omegas_does_nothing(x: Tensor) -> None:
    model = encoder()
    expected = model(x)
    assert torch.equal(admin_init.fold_(model)(x), expected)


def test_fold_of_some_sites_uses_the_norm_before_each(x: Tensor) -> None:
    model = encoder()
    sites = find_sites(model)
    some = [sites[0], sites[2], sites[5]]
    admin_init.install_(model, sites=some)
    train_omegas_some = [site for site in some if site.omega is not None]
    for site in train_omegas_some[1:]:
        assert site.omega is not None
        nn.init.uniform_(site.omega, 0.3, 4.0)
    expected = model(x)
    admin_init.fold_(model, sites=some)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_the_folded_model_has_its_own_gradients_only(x: Tensor) -> None:
    model = admin_init.install_(encoder())
    train_omegas_(model)
    admin_init.fold_(model)
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    model(x).sum().backward()


def set_channel(model: nn.Module, index: int, value: float) -> None:
    omega = find_sites(model)[index].omega
    assert omega is not None
    omega.data[3] = value


def set_first(model: nn.Module, value: float) -> None:
    omega = find_sites(model)[0].omega
    assert omega is not None
    omega.data.fill_(value)


def own_attention(model: nn.Module) -> None:
    class Attention(nn.MultiheadAttention):
        def forward(self, *args: Any, **options: Any) -> Any:
            return super().forward(*args, **options)

    model.layers[2].self_attn = Attention(D, 4, batch_first=True)  # type: ignore[index,union-attr]


def lora(model: nn.Module) -> None:
    class LoRA(nn.Linear):
        def __init__(self) -> None:
            super().__init__(D, 32)
            self.down, self.up = nn.Linear(D, 2), nn.Linear(2, 32)

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            y: Tensor = super().forward(input) + self.up(self.down(input))
            return y

    model.layers[2].linear1 = LoRA()  # type: ignore[index,union-attr]


def share(model: nn.Module) -> None:
    model.layers[2].linear1 = model.layers[1].linear1  # type: ignore[index,union-attr]


def share_last_norm(model: nn.Module) -> None:
    model.layers[2].norm2 = model.layers[1].norm2  # type: ignore[index,union-attr]


def share_weight(model: nn.Module) -> None:
    model.head = nn.Linear(D, 32)
    model.head.weight = model.layers[2].linear1.weight  # type: ignore[index,union-attr]


def weight_norm(model: nn.Module) -> None:
    parametrizations.weight_norm(model.layers[2].linear1)  # type: ignore[index,union-attr]


def pruned(model: nn.Module) -> None:
    prune.random_unstructured(model.layers[2].linear1, "weight", 0.5)  # type: ignore[index,union-attr,no-untyped-call]


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (lambda m: set_channel(m, 2, 0.0), r"`layers.1.self_attn` has channels that are zero"),
        (lambda m: set_channel(m, 5, float("nan")), r"`layers.2.ffn` has .* not finite"),
        (lambda m: set_channel(m, 5, float("inf")), r"`layers.2.ffn` has .* not finite"),
        (lambda m: set_channel(m, 0, 2.0), r"`layers.0.self_attn` differs between channels"),
        (lambda m: set_first(m, -2.0), r"`layers.0.self_attn` .* is negative"),
        (own_attention, r"`self_attn` in .* `layers.2.self_attn` is a Attention"),
        (lora, r"`linear1` in the layer of `layers.2.ffn` is a LoRA"),
        (share, r"around `layers.1.ffn` is used in 2 places.*around `layers.2.ffn` is used"),
        (share_last_norm, r"a weight around `layers.2.self_attn` is used in 2 places"),
        (share_weight, r"a weight around `layers.2.ffn` is used in 2 places"),
        (weight_norm, r"a weight around `layers.2.ffn` is computed from other weights"),
        (pruned, r"a weight around `layers.2.ffn` is computed from other weights"),
    ],
)
def test_fold_refuses_and_changes_nothing(
    break_: Callable[[nn.Module], None], message: str, x: Tensor
) -> None:
    model = admin_init.install_(encoder())
    train_omegas_(model)
    break_(model)
    before = copy.deepcopy(model.state_dict())
    expected = model(x)
    with pytest.raises(FoldError, match=message) as error:
        admin_init.fold_(model)
    assert "nothing was changed" in str(error.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0, equal_nan=True)


class Gated(nn.TransformerEncoderLayer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate = nn.Linear(D, 32)

    def _ff_block(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.linear1(x)) * self.gate(x)
        y: Tensor = self.dropout2(self.linear2(hidden))
        return y


def test_fold_refuses_a_layer_that_reads_its_input_elsewhere(x: Tensor) -> None:
    model = nn.TransformerEncoder(Gated(D, 4, 32, 0.0, batch_first=True), 2)
    admin_init.apply_(model, admin_init.profile(model, [x]))
    with pytest.raises(FoldError, match="Gated overrides `_ff_block`, so the weights that read"):
        admin_init.fold_(model)


def test_all_that_keeps_a_model_from_being_folded_is_named_at_once() -> None:
    model = admin_init.install_(encoder())
    train_omegas_(model)
    set_channel(model, 1, 0.0)
    lora(model)
    with pytest.raises(FoldError, match=r"`layers.0.ffn` has channels.*; .*is a LoRA"):
        admin_init.fold_(model)


def test_a_model_under_two_names_is_folded_once(x: Tensor) -> None:
    model = Prefixed(encoder())
    model.alias = model.model
    model.last = model.model.layers[-1]  # type: ignore[index]
    admin_init.install_(model)
    train_omegas_(model)
    expected = model(x)
    torch.testing.assert_close(admin_init.fold_(model)(x), expected, atol=1e-5, rtol=1e-5)


def test_omegas_of_one_fold_whatever_the_layers_are(x: Tensor) -> None:
    model = encoder()
    own_attention(model)
    expected = model(x)
    admin_init.install_(model)
    assert torch.equal(admin_init.fold_(model)(x), expected)


def test_fold_refuses_weights_that_would_overflow_and_changes_nothing(x: Tensor) -> None:
    model = encoder(2).half()
    admin_init.install_(model)
    *_, last = find_sites(model)
    assert last.omega is not None
    nn.init.constant_(last.omega, 6e4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 and parameter is not last.omega:
                parameter.fill_(2.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FoldError, match=r"around `layers\.1\.ffn` would overflow"):
        admin_init.fold_(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_fold_of_a_model_that_is_built_in_inference_mode(x: Tensor) -> None:
    with torch.inference_mode():
        model = encoder(2).eval()
        admin_init.install_(model)
        train_omegas_(model)
        expected = model(x)
    with pytest.raises(FoldError, match="inference_mode"):
        admin_init.fold_(model)
    with torch.inference_mode():
        torch.testing.assert_close(admin_init.fold_(model)(x), expected, rtol=1e-4, atol=1e-5)


class EndsInGelu(SubLayer):
    """A branch that no weight is in proportion to."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.GELU()

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(super().branch(x))
        return y


def test_an_omega_of_one_needs_no_weights() -> None:
    torch.manual_seed(0)
    batch = torch.randn(3, 5, 16)
    model = nn.Sequential(EndsInGelu(), SubLayer(), SubLayer()).eval()
    admin_init.initialize_(model, batch)
    expected = model(batch)
    admin_init.fold_(model)
    assert not any("omega" in name for name in model.state_dict())
    torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-5)
    other = nn.Sequential(SubLayer(), EndsInGelu(), SubLayer()).eval()
    admin_init.initialize_(other, batch)
    with pytest.raises(FoldError, match=r"`1.activation` cannot be folded, .* operation `gelu`"):
        admin_init.fold_(other)
