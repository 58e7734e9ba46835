import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers.perturb import train_omegas_
from _helpers.small_named import ATTENTION, FEED_FORWARD, D, Layer, Model, sites_of
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import admin_init
from admin_init import FoldError, NotPostLNError, ProfileError, UnsupportedModelError
from admin_init.adapters.patterns import SitePattern, named_sites


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


def test_sites_come_layer_by_layer_in_the_order_of_the_patterns() -> None:
    sites = sites_of(Model(12))
    assert [site.name for site in sites[:3]] == [
        "encoder.layers.0.attention",
        "encoder.layers.0.dropout",
        "encoder.layers.1.attention",
    ]
    assert sites[-1].name == "encoder.layers.11.dropout"
    assert {site.stack for site in sites} == {"encoder"}
    assert [site.previous for site in sites] == [None, *sites[:-1]]


def test_layers_without_a_list_make_one_stack() -> None:
    model = nn.Module()
    for i in range(2):
        setattr(model, f"layer{i}", Layer())
    patterns = [
        SitePattern(
            branch="layer*.attention", linear="layer*.attention.output", norm="layer*.norm"
        ),
        SitePattern(branch="layer*.dropout", linear="layer*.fc2", norm="layer*.norm"),
    ]
    sites = named_sites(model, patterns)
    assert len({site.stack for site in sites}) == 1
    assert [site.name for site in sites] == [
        "layer0.attention",
        "layer0.dropout",
        "layer1.attention",
        "layer1.dropout",
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ({"branch": "decoder.layers.*.dropout"}, r"no module is named `decoder.layers.\*.dropout`"),
        ({"branch": "encoder.layers.0.dropout"}, r"needs one `\*`, in place of the layer's index"),
        ({"branch": "*.layers.*.dropout"}, r"needs one `\*`"),
        ({"linear": "encoder.layers.*.fc9"}, r"there is no `encoder.layers.0.fc9`"),
        ({"norm": "encoder.layers.*.norm9"}, r"there is no `encoder.layers.0.norm9`"),
        ({"reader": "encoder.layers.*.fc9"}, r"there is no `encoder.layers.0.fc9`"),
        (
            {"branch": "encoder.layers.*.attention"},
            r"`encoder.layers.0.attention` is named as the end of two branches",
        ),
    ],
)
def test_patterns_that_do_not_fit_are_refused(pattern: dict[str, str], message: str) -> None:
    wrong = SitePattern(**{**vars(FEED_FORWARD), **pattern})
    with pytest.raises(UnsupportedModelError, match=message):
        named_sites(Model(), [ATTENTION, wrong])


def test_all_patterns_that_do_not_fit_are_named_at_once() -> None:
    wrong = [SitePattern(branch=f"{name}.*", linear="x", norm="y") for name in ("one", "two")]
    with pytest.raises(UnsupportedModelError, match=r"`one.\*`; .*`two.\*`"):
        named_sites(Model(), wrong)


def test_install_changes_no_bit_and_uninstall_leaves_nothing(model: Model, x: Tensor) -> None:
    model.eval()
    expected, keys = model(x), list(model.state_dict())
    hooks = [len(module._forward_hooks) for module in model.modules()]
    admin_init.install_(model, sites=sites_of(model))
    admin_init.install_(model, sites=sites_of(model))
    assert torch.equal(model(x), expected)
    assert len(model.state_dict()) == len(keys) + 4
    for site in sites_of(model):
        site.uninstall_()
    assert list(model.state_dict()) == keys
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert not any(module._load_state_dict_pre_hooks for module in model.modules())


def test_the_branch_is_divided_by_omega(model: Model, x: Tensor) -> None:
    train_omegas_(model.eval(), sites_of(model))
    layer: Any = model.get_submodule("encoder.layers.0")
    attention = layer.attention.output(layer.attention.mix(x).softmax(1) * x)
    h = layer.attention_norm(x + attention / layer.attention.omega)
    expected = layer.norm(h + layer.fc2(layer.fc1(h).relu()) / layer.dropout.omega)
    torch.testing.assert_close(layer(x), expected)
    # What else the module returns is handed on.
    torch.testing.assert_close(layer.weights, layer.attention.mix(x).softmax(1))


@pytest.mark.parametrize("installed", [False, True])
def test_profile_by_hand(model: Model, x: Tensor, installed: bool) -> None:
    if installed:
        train_omegas_(model, sites_of(model))
    torch.manual_seed(5)
    profile = admin_init.profile(model, [x], sites=sites_of(model))
    torch.manual_seed(5)
    omega, expected = torch.tensor(1.0), []
    h = x
    for layer in model.encoder.layers:  # type: ignore[union-attr]
        branch = layer.attention.output(layer.attention.mix(h).softmax(1) * h)
        expected.append(omega.item())
        omega, h = (
            ((omega * h).var(correction=0) + branch.var(correction=0)).sqrt(),
            layer.attention_norm(h + branch / omega),
        )
        branch = nn.functional.dropout(layer.fc2(layer.fc1(h).relu()), 0.2)
        expected.append(omega.item())
        omega, h = (
            ((omega * h).var(correction=0) + branch.var(correction=0)).sqrt(),
            layer.norm(h + branch / omega),
        )
    assert [site.omega for site in profile.sites] == pytest.approx(expected, rel=1e-4)
    assert [site.installed for site in sites_of(model)] == [installed] * 4


@pytest.mark.parametrize("signed", [False, True])
def test_fold(model: Model, x: Tensor, signed: bool) -> None:
    keys = list(model.state_dict())
    train_omegas_(model.eval(), sites_of(model))
    if signed:
        for site in sites_of(model):
            assert site.omega is not None
            site.omega.data[::2] *= -1
    expected = model(x)
    admin_init.fold_(model, sites=sites_of(model))
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_fold_refuses_an_omega_that_cannot_be_divided_by(model: Model, value: float) -> None:
    train_omegas_(model, sites_of(model))
    last = sites_of(model)[-1]
    assert last.omega is not None
    last.omega.data[2] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FoldError, match=r"`encoder.layers.1.dropout` has channels that are zero"):
        admin_init.fold_(model, sites=sites_of(model))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_fold_refuses_a_linear_that_does_more(model: Model) -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return 2 * super().forward(input)

    model.encoder.layers[1].fc2 = Doubled(2 * D, D)  # type: ignore[index,union-attr]
    train_omegas_(model, sites_of(model))
    with pytest.raises(FoldError, match=r"`encoder.layers.1.dropout` ends in a Doubled"):
        admin_init.fold_(model, sites=sites_of(model))


def test_fold_refuses_a_linear_that_is_shared(model: Model) -> None:
    first, second = model.encoder.layers  # type: ignore[misc]
    second.fc2 = first.fc2
    train_omegas_(model, sites_of(model))
    with pytest.raises(FoldError, match=r"`encoder.layers.0.dropout` is used in 2 places"):
        admin_init.fold_(model, sites=sites_of(model))


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)  # fmt: skip
def test_copies(model: Model, x: Tensor, clone: Callable[[nn.Module], Any]) -> None:
    train_omegas_(model.eval(), sites_of(model))
    expected = model(x).detach()
    other = clone(model)
    assert torch.equal(other(x), expected)
    for site in sites_of(other):
        assert site.omega is not None
        site.omega.data.mul_(2)
    assert torch.equal(model(x), expected)
    assert not torch.allclose(other(x), expected)
    with pytest.warns(UserWarning, match="no omega"):
        other.load_state_dict(Model().state_dict())
    admin_init.fold_(other, sites=sites_of(other))
    assert list(other.state_dict()) == list(Model().state_dict())


def test_checkpoints(model: Model, x: Tensor) -> None:
    train_omegas_(model.eval(), sites_of(model))
    other = Model().eval()
    admin_init.install_(other, sites=sites_of(other))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    plain = Model().eval()
    with pytest.warns(UserWarning, match="The checkpoint has no omega"):
        other.load_state_dict(plain.state_dict())
    assert torch.equal(other(x), plain(x))


def test_activation_checkpointing(model: Model, x: Tensor) -> None:
    train_omegas_(model, sites_of(model))
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(3)
        model.zero_grad()
        y = x
        for layer in model.encoder.layers:  # type: ignore[union-attr]
            y = checkpoint(layer, y, use_reentrant=False) if recompute else layer(y)
        torch.autograd.backward(y.square().sum())
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


class PreLN(Layer):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))[0]
        y: Tensor = x + self.dropout(self.fc2(self.fc1(self.norm(x)).relu()))
        return y


def test_a_pre_ln_model_is_told_apart_by_its_norm(x: Tensor) -> None:
    model = Model()
    model.encoder.layers = nn.ModuleList([PreLN()])
    with pytest.raises(
        NotPostLNError,
        match=r"layers.0.attention` is given as Post-LN, .* Pre-LN",
    ):
        admin_init.profile(model, [x], sites=sites_of(model))
    assert not any(site.installed for site in sites_of(model))


def test_one_layer_at_several_depths_ran_twice(model: Model, x: Tensor) -> None:
    layers = model.encoder.layers
    layers[1] = layers[0]  # type: ignore[operator,index]
    with pytest.raises(ProfileError, match=r"`encoder.layers.0.attention` ran twice"):
        admin_init.profile(model, [x], sites=sites_of(model))
