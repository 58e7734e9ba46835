import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.perturb import train_omegas_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import admin_init
from admin_init.adapters.discovery import find_sites
from admin_init.adapters.torch_nn import ExcessSkip
from admin_init.errors import UnsupportedModelError

D = 16
PADDING = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)


class OwnLayer(nn.TransformerEncoderLayer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.colour = "red"


def encoder(
    layers: int = 2,
    kind: type[nn.TransformerEncoderLayer] = nn.TransformerEncoderLayer,
    **options: Any,
) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": True, **options}
    return nn.TransformerEncoder(kind(D, 4, 32, **options), layers)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of torch's fused kernels for inference, as they come."""
    calls: list[str] = []

    def spy(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            calls.append(kernel.__name__)
            return kernel(*args, **options)

        return run

    for name in ("_transformer_encoder_layer_fwd", "_nested_tensor_from_mask"):
        monkeypatch.setattr(torch, name, spy(getattr(torch, name)))
    return calls


@pytest.fixture
def compiles() -> Iterator[None]:
    """For tests that compile: forgets what was compiled before and within."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# The fused kernels of inference know no omega.

MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "padding": {"src_key_padding_mask": PADDING},
    "padding inside": {"src_key_padding_mask": PADDING.flip(1)},
    "float padding": {"src_key_padding_mask": torch.zeros(3, 5).masked_fill(PADDING, -torch.inf)},
    "causal": {
        "mask": nn.Transformer.generate_square_subsequent_mask(5),
        "is_causal": True,
    },
    "both": {"mask": torch.ones(5, 5).triu(1).bool(), "src_key_padding_mask": PADDING},
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_eval_equals_train(x: Tensor, fused: list[str], mask: str, frozen: bool) -> None:
    model = train_omegas_(encoder()).requires_grad_(not frozen)
    expected = model.train()(x, **MASKS[mask])
    model.eval()
    torch.testing.assert_close(model(x, **MASKS[mask]), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(x, **MASKS[mask]), expected)
    with torch.inference_mode():
        torch.testing.assert_close(model(x, **MASKS[mask]), expected)
    assert fused == []


@pytest.mark.parametrize(
    ("mask", "kernels"),
    [
        ("none", {"_transformer_encoder_layer_fwd"}),
        ("padding", {"_transformer_encoder_layer_fwd", "_nested_tensor_from_mask"}),
    ],
)
def test_the_fused_kernels_would_have_given_something_else(
    x: Tensor, fused: list[str], mask: str, kernels: set[str]
) -> None:
    model = train_omegas_(encoder()).eval()
    with torch.no_grad():
        rescaled = model(x, **MASKS[mask])
        for module in (model, *model.layers):  # type: ignore[misc]
            module.__class__ = module.plain_class
        plain = model(x, **MASKS[mask])
    assert set(fused) == kernels
    assert (rescaled - plain)[~PADDING].abs().max() > 0.5


@pytest.mark.parametrize("take_out", ["fold", "uninstall", "profile"])
def test_without_omegas_the_fused_kernels_are_back(
    x: Tensor, fused: list[str], take_out: str
) -> None:
    model = encoder()
    if take_out == "profile":
        admin_init.profile(model, [x])
    else:
        train_omegas_(model)
        if take_out == "fold":
            admin_init.fold_(model.train())
        else:
            for site in find_sites(model):
                site.uninstall_()
    model.eval()
    assert [type(module) for module in model.modules()] == [
        type(module) for module in encoder().modules()
    ]
    with torch.no_grad():
        model(x, **MASKS["padding"])
    assert set(fused) == {"_transformer_encoder_layer_fwd", "_nested_tensor_from_mask"}


@pytest.mark.parametrize("wrap", [True, False])
def test_one_rescaled_layer_keeps_the_encoder_from_nested_tensors(
    x: Tensor, fused: list[str], wrap: bool
) -> None:
    class Wrapper(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, *args: Any, **options: Any) -> Any:
            return self.inner(*args, **options)

    model = encoder()
    if wrap:
        model.layers[1] = Wrapper(model.layers[1])
    some = find_sites(model)[2:]
    admin_init.install_(model, sites=some)
    expected = model(x, **MASKS["padding"])
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model(x, **MASKS["padding"])[~PADDING], expected[~PADDING], atol=1e-5, rtol=1e-5
        )
    assert "_nested_tensor_from_mask" not in fused
    for site in some:
        site.uninstall_()
    assert type(model) is nn.TransformerEncoder


def test_a_fused_kernel_is_not_taken_by_a_bare_layer(x: Tensor, fused: list[str]) -> None:
    model = train_omegas_(encoder().layers[0])
    expected = model(x)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    assert fused == []


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


@pytest.mark.parametrize("first", ["install", "compile"])
@pytest.mark.usefixtures("compiles")
def test_compile(x: Tensor, first: str) -> None:
    model = encoder()
    profile = admin_init.profile(model, [x])
    if first == "install":
        admin_init.apply_(model, profile)
        compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    else:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        compiled(x)
        assert admin_init.profile(compiled, [x]).sites[3].omega == profile.sites[3].omega
        admin_init.apply_(compiled, profile)
    torch.testing.assert_close(compiled(x), model(x))
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(x, src_key_padding_mask=PADDING), model(x, src_key_padding_mask=PADDING)
        )
    expected = model(x)
    torch.testing.assert_close(admin_init.fold_(compiled)(x), expected, atol=1e-5, rtol=1e-5)
    assert type(model) is nn.TransformerEncoder


@pytest.mark.usefixtures("compiles")
def test_profiling_compiles_nothing(x: Tensor) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled: Any = torch.compile(encoder(), backend=backend)
    compiled(x)
    assert len(graphs) == 1
    admin_init.profile(compiled, [x])
    assert len(graphs) == 1
    admin_init.install_(compiled)(x)
    assert len(graphs) == 2


@pytest.mark.usefixtures("compiles")
def test_layers_that_are_compiled_one_by_one(x: Tensor, fused: list[str]) -> None:
    model = encoder()
    expected = admin_init.profile(model, [x])
    for i in range(2):
        model.layers[i] = torch.compile(model.layers[i], backend="eager")
    profile = admin_init.profile(model, [x])
    assert [site.omega for site in profile.sites] == [site.omega for site in expected.sites]
    admin_init.apply_(model, profile)
    trained = model(x, src_key_padding_mask=PADDING)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x, src_key_padding_mask=PADDING), trained)
    assert fused == []


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


def test_a_layer_with_a_forward_of_its_own_is_refused(x: Tensor) -> None:
    class DropPath(nn.TransformerEncoderLayer):
        def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
            x = self.norm1(x + 0.5 * self._sa_block(x, None, None))
            y: Tensor = self.norm2(x + self._ff_block(x))
            return y

    model = encoder(kind=DropPath)
    for call in (admin_init.install_, lambda model: admin_init.profile(model, [x])):
        with pytest.raises(
            UnsupportedModelError,
            match=r"DropPath at `layers.0` overrides `forward`, .* `admin_init.named_sites`",
        ):
            call(model)
    assert type(model.get_submodule("layers.0")) is DropPath


def test_omega_of_one_changes_nothing_and_others_the_shortcut(x: Tensor) -> None:
    skip = ExcessSkip(D)
    assert torch.equal(skip(x, 2 * x), 2 * x)
    skip.omega.data.fill_(3.0)
    torch.testing.assert_close(x + skip(x, 2 * x), 5 * x)
    torch.testing.assert_close(x + skip(x, 2 * x, torch.tensor(7.0)), 9 * x)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.usefixtures("compiles")
def test_export(x: Tensor, strict: bool) -> None:
    model = train_omegas_(encoder()).eval()
    exported = torch.export.export(model, (x,), strict=strict)
    torch.testing.assert_close(exported.module()(x), model(x))
