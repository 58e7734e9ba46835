import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torchmetrics
from torch import Tensor, nn

import admin_init
from admin_init import AdminProfile, ProfileError
from admin_init.adapters.computation.observation import SiteVariances
from admin_init.adapters.discovery import find_sites
from admin_init.omega import OmegaRule, PooledVariance, omega_from_variances
from admin_init.profiling.from_variances import make_profile

D = 16


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(D, 4, 32, **{"dropout": 0.0, "batch_first": True, **options})


class Model(nn.Module):
    """A user's model, with a state of its own."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(layer(dropout=0.1), layers)
        self.encoder.layers[-1].eval()
        self.stem = nn.BatchNorm1d(D)
        self.metric = torchmetrics.MeanMetric()
        self.outputs: list[Tensor] = []
        self.fail = False

    def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        x = self.stem(x.mT).mT * scale
        x = self.encoder(x)
        self.metric(x.mean())
        self.outputs.append(x)
        if self.fail:
            raise RuntimeError("out of memory")
        return x


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, D)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    model = Model()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return model


def footprint(model: Model) -> dict[str, Any]:
    return {
        "state": {key: value.tolist() for key, value in model.state_dict().items()},
        "classes": [type(module) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "attributes": [
            {key: repr(value) for key, value in vars(module).items()} for module in model.modules()
        ],
        "hooks": [
            len(module._forward_hooks) + len(module._forward_pre_hooks)
            for module in model.modules()
        ],
        "trained": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "metric": model.metric.mean_value.item(),
        "random": torch.get_rng_state().tolist(),
    }


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(
    model: Model, x: Tensor, installed: bool, fail: bool, training: bool
) -> None:
    model.train(training)
    model.encoder.layers[0].eval()
    if installed:
        admin_init.install_(model)
        for site in find_sites(model):
            assert site.omega is not None
            nn.init.uniform_(site.omega, 0.5, 2.0)
    model.fail = fail
    before = footprint(model)
    if fail:
        with pytest.raises(RuntimeError, match="out of memory"):
            admin_init.profile(model, [x])
    else:
        admin_init.profile(model, [x])
    assert footprint(model) == before


def test_a_model_that_fails_within_a_layer_is_left_as_it_was(model: Model, x: Tensor) -> None:
    before = footprint(model)
    with pytest.raises(RuntimeError):
        admin_init.profile(model, [x[..., :-1]])
    admin_init.profile(model, [x])
    assert footprint(model) == before


def test_the_profile_does_not_depend_on_omegas_that_are_set(model: Model, x: Tensor) -> None:
    plain = admin_init.profile(model, [x])
    admin_init.apply_(model, plain)
    assert admin_init.profile(model, [x]) == plain


def test_the_profile_is_taken_in_train_mode(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(layer(dropout=0.5), 2)
    one = admin_init.profile(model.train(), [x])
    torch.manual_seed(0)
    model = nn.TransformerEncoder(layer(dropout=0.5), 2)
    assert admin_init.profile(model.eval(), [x]) == one


def test_the_pass_keeps_no_gradients(model: Model, x: Tensor) -> None:
    def forward(model: nn.Module, x: Tensor) -> None:
        assert not model(x).requires_grad

    admin_init.profile(model, [x], forward=forward)
    assert torch.is_grad_enabled()


class Two(NamedTuple):
    x: Tensor
    scale: Tensor


@pytest.mark.parametrize(
    "batch",
    [
        lambda x: (x, 2.0),
        lambda x: [x, 2.0],
        lambda x: {"x": x, "scale": 2.0},
        lambda x: Two(x, torch.tensor(2.0)),
        lambda x: {"scale": 2.0, "x": x},
    ],
)
def test_batches_are_unpacked_into_the_arguments_of_the_model(
    model: Model, x: Tensor, batch: Callable[[Tensor], Any]
) -> None:
    def double(model: nn.Module, x: Tensor) -> None:
        model(x, 2.0)

    expected = admin_init.profile(model, [x], forward=double)
    assert admin_init.profile(model, [batch(x)]) == expected
    assert admin_init.profile(model, [x]) != expected


def test_several_batches_average_the_variances(model: Model, x: Tensor) -> None:
    model.stem = nn.BatchNorm1d(D, affine=False)
    batches = [x[:1], x[1:] * 3]
    singles = [admin_init.profile(model, [batch]) for batch in batches]
    both = admin_init.profile(model, iter(batches))
    assert both.batches == 2
    assert both.elements == sum(single.elements for single in singles)
    omega = 1.0
    for site, one, two in zip(both.sites, singles[0].sites, singles[1].sites, strict=True):
        assert (one.elements, two.elements) == (5 * D, 2 * 5 * D)
        assert site.variance == pytest.approx((one.variance + 2 * two.variance) / 3)
        shortcut = (one.shortcut_variance + 2 * two.shortcut_variance) / 3
        assert site.shortcut_variance == pytest.approx(shortcut)
        # The rule is applied again to the averages; omegas themselves are not averaged.
        assert site.omega == pytest.approx(omega, rel=1e-6)
        omega = math.sqrt(omega**2 * shortcut + site.variance)


def test_a_data_loader_is_an_iterable_of_batches(model: Model) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(6, 5, D))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    assert admin_init.profile(model, loader).batches == 3


@pytest.mark.parametrize("rule", ["reference", "paper", "log", "constant"])
def test_every_rule(model: Model, x: Tensor, rule: Any) -> None:
    profile = admin_init.profile(model, [x], rule=rule)
    variances = [site.variance for site in profile.sites]
    shortcuts = [site.shortcut_variance for site in profile.sites]
    omegas = [1.0]
    for i in range(3):
        omegas.append(math.sqrt(omegas[i] ** 2 * shortcuts[i] + variances[i]))
    expected = {
        "reference": omegas,
        "paper": [1.0, *(math.sqrt(sum(variances[:i])) for i in (1, 2, 3))],
        "log": [math.sqrt(5 / math.log(5) - 1)] * 4,
        "constant": [2.0] * 4,
    }[rule]
    assert [site.omega for site in profile.sites] == pytest.approx(expected, rel=1e-5)
    signature = f"rule:{rule}|batches:1|elements:{4 * x.numel()}|dtype:fp32"
    assert profile.signature.startswith(signature)


def test_later_branches_see_the_omegas_before_them_under_the_reference_rule_only(
    model: Model, x: Tensor
) -> None:
    reference = admin_init.profile(model, [x], rule="reference").sites
    paper = admin_init.profile(model, [x], rule="paper").sites
    assert reference[0].variance == paper[0].variance
    assert reference[2].variance != pytest.approx(paper[2].variance, rel=1e-3)


@pytest.mark.parametrize(
    ("dtype", "short"),
    [(torch.float16, "fp16"), (torch.bfloat16, "bf16"), (torch.float64, "fp64")],
)
def test_other_types(dtype: torch.dtype, short: str, x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(layer(), 2)
    single = admin_init.profile(model, [x])
    profile = admin_init.profile(copy.deepcopy(model).to(dtype), [x.to(dtype)])
    assert profile.dtype == short
    for site, expected in zip(profile.sites, single.sites, strict=True):
        assert site.omega == pytest.approx(expected.omega, rel=0.02)


def test_under_autocast(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(layer(), 2)
    with torch.autocast("cpu", torch.bfloat16):
        profile = admin_init.profile(model, [x])
    assert profile.dtype == "bf16"
    single = admin_init.profile(model, [x])
    for site, expected in zip(profile.sites, single.sites, strict=True):
        assert site.omega == pytest.approx(expected.omega, rel=0.02)


def test_some_sites_only(model: Model, x: Tensor) -> None:
    sites = find_sites(model)
    profile = admin_init.profile(model, [x], sites=sites[:3])
    assert [site.name for site in profile.sites] == [site.name for site in sites[:3]]
    assert not any(site.installed for site in sites)


def test_two_stacks_have_a_chain_each(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Transformer(D, 4, 2, 1, 32, 0.0, batch_first=True)
    profile = admin_init.profile(model, [(x, x[:, :3])])
    chains = {"encoder": 4, "decoder": 3}
    assert {s.stack: s.omega for s in reversed(profile.sites)} == dict.fromkeys(chains, 1.0)
    assert [s.stack for s in profile.sites] == ["encoder"] * 4 + ["decoder"] * 3


def test_a_model_of_one_layer(x: Tensor) -> None:
    profile = admin_init.profile(layer(), [x])
    assert [site.name for site in profile.sites] == ["self_attn", "ffn"]
    assert profile.sites[1].omega > 1


def test_the_batches_are_not_a_batch(model: Model, x: Tensor) -> None:
    with pytest.raises(ProfileError, match=r"is one Tensor. Pass a list: `profile\(model, \[batch"):
        admin_init.profile(model, x)
    with pytest.raises(ProfileError, match="is one dict"):
        admin_init.profile(model, {"x": x})
    with pytest.raises(ProfileError, match="must hold at least one batch, but is empty"):
        admin_init.profile(model, [])


def test_an_unknown_rule_is_refused_before_anything_runs(model: Model) -> None:
    def batches() -> Iterator[Tensor]:
        yield pytest.fail("a batch was loaded")

    with pytest.raises(ValueError, match=r"must be one of .* is 'magic'"):
        admin_init.profile(model, batches(), rule="magic")  # type: ignore[arg-type]


def test_a_site_that_never_ran_is_named(x: Tensor) -> None:
    model = nn.ModuleDict({"used": nn.TransformerEncoder(layer(), 1), "idle": layer()})
    with pytest.raises(ProfileError, match=r"2 of 4 .* never ran .*`idle.self_attn`.*`exclude=`"):
        admin_init.profile(model, [x], forward=lambda model, x: model["used"](x))


def test_a_site_that_ran_twice_is_named(x: Tensor) -> None:
    shared = nn.TransformerEncoder(layer(), 1)
    with pytest.raises(ProfileError, match=r"`0.layers.0.self_attn` ran twice.*`forward=`"):
        admin_init.profile(nn.Sequential(shared, nn.Linear(D, D), shared), [x])


def test_layers_are_chained_in_the_order_in_which_they_run(x: Tensor) -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer2, self.layer1 = layer(), layer()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer2(self.layer1(x))
            return y

    profile = admin_init.profile(Reversed(), [x])
    assert [site.name for site in profile.sites] == [
        "layer1.self_attn",
        "layer1.ffn",
        "layer2.self_attn",
        "layer2.ffn",
    ]
    assert profile.sites[0].omega == 1
    variances = [site.variance for site in profile.sites]
    shortcuts = [site.shortcut_variance for site in profile.sites]
    expected = omega_from_variances(variances, shortcut=shortcuts)
    assert [site.omega for site in profile.sites] == pytest.approx(expected)
    model = Reversed()
    with pytest.raises(ProfileError, match=r"`layer` ran in another order \(`layer1.self_attn`"):
        admin_init.profile(model, [x], sites=admin_init.find_sites(model))


def test_layers_side_by_side_are_stacks_of_their_own(x: Tensor) -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.image = layer(), layer()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.text(x) + self.image(x)
            return y

    model = Parallel().eval()
    profile = admin_init.profile(model, [x])
    assert [site.omega for site in profile.sites[::2]] == [1.0, 1.0]
    admin_init.apply_(model, profile)
    with torch.no_grad():
        before = model(x)
        torch.testing.assert_close(admin_init.fold_(model)(x), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_variance_that_is_not_finite_is_named(model: Model, x: Tensor, poison: float) -> None:
    x[0, 0, 0] = poison
    before = footprint(model)
    with pytest.raises(ProfileError, match=r"variance of `encoder.layers.0.self_attn`.*NaN or inf"):
        admin_init.profile(model, [x])
    assert footprint(model) == before


def test_overflow_in_half_precision_is_named() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(layer(), 1).half()
    nn.init.constant_(model.layers[0].linear2.weight, 6e4)
    with pytest.raises(ProfileError, match=r"variance of `layers.0.ffn`.*half precision"):
        admin_init.profile(model, [torch.randn(2, 3, D).half()])


def test_branches_without_variance_are_refused() -> None:
    def site(name: str, previous: str | None) -> SiteVariances:
        pooled = PooledVariance(10, 0.0)
        return SiteVariances(
            name=name, stack="e", previous=previous, dtype="fp32", shortcut=pooled, branch=pooled
        )

    with pytest.raises(ProfileError, match=r"omega of `b` is 0.*initialized at random"):
        make_profile([site("a", None), site("b", "a")], rule=OmegaRule("paper"), batches=1)


def test_a_model_that_keeps_gradients_off_can_be_profiled(model: Model, x: Tensor) -> None:
    expected = pytest.approx([site.omega for site in admin_init.profile(model, [x]).sites])
    model.requires_grad_(False)
    assert [site.omega for site in admin_init.profile(model, [x]).sites] == expected
    with torch.inference_mode():
        assert [site.omega for site in admin_init.profile(model, [x]).sites] == expected


def test_the_profile_can_be_saved_and_applied(model: Model, x: Tensor, tmp_path: Any) -> None:
    profile = admin_init.profile(model, [x])
    profile.save(tmp_path / "profile.json")
    admin_init.apply_(model, AdminProfile.load(tmp_path / "profile.json"))
    for site, expected in zip(find_sites(model), profile.sites, strict=True):
        assert site.omega is not None
        torch.testing.assert_close(site.omega.data, torch.full((D,), expected.omega))
