import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.perturb import train_omegas_
from _helpers.torch_encoder import D, encoder
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import admin_init
from admin_init.adapters.discovery import find_sites
from admin_init.adapters.torch_nn import ExcessSkip
from admin_init.errors import UnsupportedModelError


class OwnLayer(nn.TransformerEncoderLayer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.colour = "red"


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


# What an installed model must survive.


def roundtrip(path: Path, model: nn.Module) -> Any:
    torch.save(model, path / "model.pt")
    return torch.load(path / "model.pt", weights_only=False)


@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, OwnLayer])
@pytest.mark.parametrize(
    "clone",
    [
        lambda path, model: copy.deepcopy(model),
        *(
            lambda path, model, p=protocol: pickle.loads(pickle.dumps(model, p))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        roundtrip,
    ],
)
def test_copies(
    tmp_path: Path,
    x: Tensor,
    kind: type[nn.TransformerEncoderLayer],
    clone: Callable[[Path, nn.Module], Any],
) -> None:
    model = train_omegas_(encoder(kind=kind))
    expected = model(x)
    other = clone(tmp_path, model)
    assert torch.equal(other(x), expected)
    assert isinstance(other.layers[0], kind)
    assert vars(other.layers[0]).keys() == vars(model.layers[0]).keys()  # type: ignore[index]
    # The copy has omegas of its own, and gives them back as the original does.
    for site in find_sites(other):
        assert site.omega is not None
        site.omega.data.mul_(2)
    assert torch.equal(model(x), expected)
    assert not torch.equal(other(x), expected)
    admin_init.fold_(copy.deepcopy(model))
    for site in find_sites(other):
        site.uninstall_()
    assert type(other) is nn.TransformerEncoder
    assert type(other.layers[0]) is kind
    assert torch.equal(other(x), encoder(kind=kind)(x))


def test_an_encoder_cloned_from_an_installed_layer(x: Tensor) -> None:
    layer = train_omegas_(encoder().layers[0])
    assert isinstance(layer, nn.TransformerEncoderLayer)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    assert torch.equal(model(x), layer(layer(x)))
    assert all(site.installed for site in find_sites(model))


def test_state_dict_round_trip(x: Tensor) -> None:
    model, other = train_omegas_(encoder()), admin_init.install_(encoder())
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_a_plain_checkpoint_loads_as_omega_one_with_a_warning(x: Tensor) -> None:
    plain, model = encoder(), train_omegas_(encoder())
    with pytest.warns(UserWarning, match="The checkpoint has no omega"):
        model.load_state_dict(plain.state_dict())
    assert torch.equal(model(x), plain(x))


def test_omegas_met_by_a_plain_model_are_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"Unexpected key.*self_attn_skip.omega"):
        encoder().load_state_dict(train_omegas_(encoder()).state_dict())


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(x: Tensor, reentrant: bool) -> None:
    model = train_omegas_(encoder(dropout=0.2))
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(3)
        model.zero_grad()
        y = x.clone().requires_grad_()
        for layer in model.layers:  # type: ignore[union-attr]
            y = checkpoint(layer, y, use_reentrant=reentrant) if recompute else layer(y)
        torch.autograd.backward(y.square().sum())
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_meta_device(x: Tensor) -> None:
    with torch.device("meta"):
        model: Any = encoder()
    admin_init.install_(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in model.modules():
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if reset is not None:
            reset()
    for site in find_sites(model):
        assert site.omega is not None
        assert torch.equal(site.omega, torch.ones(D))
    admin_init.apply_(model, admin_init.profile(model, [x]))
    assert model(x).isfinite().all()


def test_moved_to_another_type(x: Tensor) -> None:
    model = train_omegas_(encoder())
    expected = model(x)
    torch.testing.assert_close(model.double()(x.double()).float(), expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_an_installed_layer_is_still_of_its_class() -> None:
    model = train_omegas_(encoder(kind=OwnLayer))
    layer = model.get_submodule("layers.0")
    assert isinstance(layer, OwnLayer)
    assert layer.colour == "red"
    assert type(layer).__name__ == "AdminOwnLayer"


def test_a_layer_that_has_its_own_blocks_is_rescaled_around_them(x: Tensor) -> None:
    class Doubled(nn.TransformerEncoderLayer):
        def _ff_block(self, x: Tensor) -> Tensor:
            y: Tensor = 2 * super()._ff_block(x)
            return y

    model = nn.TransformerEncoder(Doubled(D, 4, 32, 0.0, batch_first=True), 1)
    admin_init.install_(model)
    sites = find_sites(model)
    assert sites[1].omega is not None
    sites[1].omega.data.fill_(3.0)
    layer: Any = model.layers[0]
    h = layer.norm1(x + layer.self_attn(x, x, x)[0])
    branch = 2 * layer.linear2(layer.linear1(h).relu())
    torch.testing.assert_close(model(x), layer.norm2(3 * h + branch))


def test_a_layer_with_a_forward_of_its_own_is_served_by_its_computation(x: Tensor) -> None:
    class HalfBranch(nn.TransformerEncoderLayer):
        def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
            x = self.norm1(x + 0.5 * self._sa_block(x, None, None))
            y: Tensor = self.norm2(x + self._ff_block(x))
            return y

    model = encoder(kind=HalfBranch)
    with pytest.raises(
        UnsupportedModelError,
        match=r"HalfBranch at `layers.0` overrides `forward`, .* `find_sites\(model, batch\)`",
    ):
        admin_init.install_(model)
    assert type(model.get_submodule("layers.0")) is HalfBranch
    plain = model.eval()(x)
    profile = admin_init.initialize_(model, x)
    assert [site.name for site in profile.sites][:2] == ["layers.0.self_attn", "layers.0.linear2"]
    assert not torch.allclose(model(x), plain, atol=1e-3)
    rescaled = model(x)
    admin_init.fold_(model)
    torch.testing.assert_close(model(x), rescaled)


def test_omega_of_one_changes_nothing_and_others_the_shortcut(x: Tensor) -> None:
    skip = ExcessSkip(D)
    assert torch.equal(skip(x, 2 * x), 2 * x)
    skip.omega.data.fill_(3.0)
    torch.testing.assert_close(x + skip(x, 2 * x), 5 * x)
    torch.testing.assert_close(x + skip(x, 2 * x, torch.tensor(7.0)), 9 * x)
