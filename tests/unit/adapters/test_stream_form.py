"""Sites that scale the input of a Pre-LN stream."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.pre_ln_models import FLOATS, IDS, MODELS, D, build
from torch import Tensor, nn

from admin_init import FoldError, UnsupportedModelError
from admin_init._utils.isolation import trial_pass, whole_pass
from admin_init._utils.typed_json import from_json
from admin_init.adapters.computation.graph import ForwardGraph
from admin_init.adapters.computation.stream_starts import stream_sites
from admin_init.adapters.discovery import call_model, known_sites
from admin_init.adapters.records import load_sites, save_sites
from admin_init.adapters.stream_form import StreamSite
from admin_init.folding import folded
from admin_init.rescale import fold_, install_
from admin_init.sites import BranchPlace, ResidualSite

FOLDING = [name for name, model in MODELS.items() if model.folds]
KEPT = [name for name, model in MODELS.items() if not model.folds]


def sites_of(model: nn.Module, batch: Any) -> list[StreamSite]:
    graph = ForwardGraph(model)
    with trial_pass(model), whole_pass(model), torch.no_grad(), graph:
        call_model(model, batch)
    return stream_sites(model, graph)


def output_of(model: nn.Module, batch: Any) -> Tensor:
    with torch.no_grad(), whole_pass(model):
        output: Any = call_model(model, batch)
    found: Tensor = output if isinstance(output, Tensor) else output.logits
    return found


def scaled_by_hand(name: str, factor: float) -> Tensor:
    """Return the output with the input of each stream times ``factor``."""
    model = build(name)
    for start in MODELS[name].streams:
        module = model.get_submodule(start.name)
        if start.form == "output":
            module.register_forward_hook(lambda _, args, output: factor * output)
        else:
            module.register_forward_pre_hook(lambda _, args: (factor * args[0], *args[1:]))
    return output_of(model, MODELS[name].batch)


def rescaled(name: str) -> tuple[nn.Module, list[StreamSite]]:
    """Return a model in which the omega of every stream is 3."""
    model = build(name)
    sites = sites_of(model, MODELS[name].batch)
    install_(model, sites=sites)
    for site in sites:
        assert site.omega is not None
        assert not site.omega.requires_grad
        nn.init.constant_(site.omega, 3.0)
    return model, sites


def assert_equal(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_omega_scales_the_input_of_the_stream(name: str) -> None:
    plain, batch = build(name), MODELS[name].batch
    before = output_of(plain, batch)
    model, sites = rescaled(name)
    after = output_of(model, batch)
    assert_equal(after, scaled_by_hand(name, 3.0))
    assert (after - before).abs().max() > 1e-3
    for site in sites:
        site.uninstall_()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(output_of(model, batch), before)
    for module in model.modules():
        assert not module._forward_pre_hooks_with_kwargs
        assert not module._load_state_dict_pre_hooks


@pytest.mark.parametrize("name", FOLDING)
def test_a_fold_keeps_the_outputs(name: str) -> None:
    model, _ = rescaled(name)
    fold_(model)
    assert model.state_dict().keys() == build(name).state_dict().keys()
    assert_equal(output_of(model, MODELS[name].batch), scaled_by_hand(name, 3.0))


@pytest.mark.parametrize("name", ["Llama", "nn.TransformerEncoder, after a projection"])
def test_a_fold_until_exit_compares_outputs(name: str) -> None:
    model, batch = rescaled(name)[0], MODELS[name].batch
    with folded(model, lambda: call_model(model, batch)) as difference:
        assert not any("omega" in key for key in model.state_dict())
    assert difference < 1e-12
    assert_equal(output_of(model, batch), scaled_by_hand(name, 3.0))


REASONS = {
    "nn.TransformerEncoder": "a tensor that is no parameter",
    "nn.TransformerDecoder": "a tensor that is no parameter",
    "Transformer": "a tensor that is no parameter, such as a fixed table",
    "LanguageModel": "a tensor that is no parameter, such as a fixed table",
}


@pytest.mark.parametrize("name", KEPT)
def test_an_omega_that_cannot_be_folded_is_kept(name: str) -> None:
    model, _ = rescaled(name)
    reason = REASONS.get(name, "its weights are read by several operations")
    with pytest.raises(FoldError, match=reason):
        fold_(model)
    assert_equal(output_of(model, MODELS[name].batch), scaled_by_hand(name, 3.0))


def test_a_table_that_another_module_shares_is_refused() -> None:
    # The output head does not run in this pass.
    model = build("GPT-2")
    body = model.get_submodule("transformer")
    graph = ForwardGraph(model)
    with trial_pass(model), torch.no_grad(), graph:
        body(input_ids=IDS)
    sites = stream_sites(model, graph)
    assert [site.computed_fold_problem for site in sites] == [None]
    install_(model, sites=sites)
    nn.init.constant_(model.get_parameter("transformer.drop.omega"), 3.0)
    with pytest.raises(FoldError, match="is used in 2 places of the model"):
        fold_(model)


class Recorder:
    """A recorder whose omega is 3; it is to be told nothing."""

    def omega(self, site: ResidualSite) -> Tensor:
        return torch.tensor(3.0, dtype=torch.float64)

    def computed_in(self, site: ResidualSite, dtype: torch.dtype) -> None:
        raise AssertionError

    def record(self, site: ResidualSite, shortcut: Tensor, branch: Tensor) -> None:
        raise AssertionError


@pytest.mark.parametrize("name", MODELS)
def test_an_observed_pass_has_the_omega_of_the_recorder(name: str) -> None:
    model, sites = rescaled(name)
    for site in sites:
        assert site.omega is not None
        nn.init.constant_(site.omega, 6.0)  # Llama's norms round to float32; 3 / 6 does not
    handles = [handle for site in sites for handle in site.observe(Recorder())]
    assert_equal(output_of(model, MODELS[name].batch), scaled_by_hand(name, 3.0))
    for handle in handles:
        handle.remove()
    assert_equal(output_of(model, MODELS[name].batch), scaled_by_hand(name, 6.0))


SOME = ["GPT-2", "OPT", "nn.TransformerDecoder", "Transformer", "mBART"]


@pytest.mark.parametrize("name", SOME)
def test_copies_and_pickles_keep_omega_and_its_sites(name: str) -> None:
    model, sites = rescaled(name)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_equal(output_of(other, MODELS[name].batch), scaled_by_hand(name, 3.0))
        found = known_sites(other)
        assert [site.record() for site in found] == [site.record() for site in sites]
        assert all(type(site) is StreamSite for site in found)
        for site in found:
            site.uninstall_()
        assert_equal(
            output_of(other, MODELS[name].batch), output_of(build(name), MODELS[name].batch)
        )
    assert_equal(output_of(model, MODELS[name].batch), scaled_by_hand(name, 3.0))


@pytest.mark.parametrize("name", SOME)
def test_sites_are_written_and_read(name: str, tmp_path: Path) -> None:
    _, sites = rescaled(name)
    save_sites(sites, tmp_path / "sites.json")
    around = nn.ModuleDict({"model": build(name)})
    found = load_sites(around, tmp_path / "sites.json", [])
    assert [site.name for site in found] == [f"model.{site.name}" for site in sites]
    for site in found:
        site.install_()
        assert site.omega is not None
        nn.init.constant_(site.omega, 3.0)
    assert_equal(output_of(around["model"], MODELS[name].batch), scaled_by_hand(name, 3.0))


def test_a_place_without_a_start_is_the_end_of_a_branch() -> None:
    assert from_json(BranchPlace, {"branch": "layers.0"}).start is None


@pytest.mark.parametrize("name", SOME)
def test_checkpoints_with_and_without_omega(name: str) -> None:
    model, _ = rescaled(name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    with pytest.warns(UserWarning, match="no omega"):
        model.load_state_dict(build(name).state_dict())
    assert_equal(output_of(model, MODELS[name].batch), output_of(build(name), MODELS[name].batch))
    model.load_state_dict(torch.load(file))
    assert_equal(output_of(model, MODELS[name].batch), scaled_by_hand(name, 3.0))


class Norm(nn.Module):
    """A norm that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(D))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * (x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt())


@pytest.mark.parametrize(
    ("norm", "weights"),
    [
        (Norm, {"0.gain": -1}),
        (lambda: nn.RMSNorm(D), {"0.weight": -1}),
        (lambda: nn.LayerNorm(D), {"0.weight": -1, "0.bias": -1}),
        (lambda: nn.LayerNorm(D, elementwise_affine=False), {}),
        (lambda: nn.Linear(D, D), {"0.weight": -2, "0.bias": -1}),
        (nn.GELU, {}),
    ],
)
def test_weights_of_a_first_module(norm: Any, weights: dict[str, int]) -> None:
    torch.manual_seed(0)
    encoder = build("nn.TransformerEncoder")
    model = nn.Sequential(norm(), encoder).double().eval()
    (site,) = sites_of(model, [FLOATS])
    assert site.place.weights == weights
    assert (site.computed_fold_problem is None) == bool(weights)
    install_(model, sites=[site])
    nn.init.constant_(model.get_parameter("0.omega"), 3.0)
    before = output_of(model, [FLOATS])
    if weights:
        assert_equal(output_of(fold_(model), [FLOATS]), before)


def test_a_table_that_the_pass_renormalizes_is_not_folded() -> None:
    table = nn.Embedding(20, D, max_norm=1.0)
    model = nn.Sequential(table, build("nn.TransformerEncoder")).double().eval()
    (site,) = sites_of(model, [IDS])
    assert site.computed_fold_problem == "the pass changes its weights"


def test_a_tensor_of_another_width_is_refused() -> None:
    model = nn.Sequential(nn.Linear(D, D), nn.Identity())
    place = BranchPlace(branch="0", start="output", width=D + 1)
    site = StreamSite(model, "0", "layers", place)
    site.install_()
    site.observe(Recorder())
    reason = r"`0` returns a tensor of shape .* cannot be the input of `0`: it has no 17 channels"
    with pytest.raises(UnsupportedModelError, match=reason):
        model(torch.randn(2, D))


def test_half_precision_is_kept() -> None:
    model = nn.Sequential(nn.Linear(D, D).half())
    StreamSite(model, "0", "", BranchPlace(branch="0", start="output", width=D)).install_()
    model[0].omega.data = model[0].omega.data.float()  # type: ignore[union-attr,operator]
    assert model(torch.ones(1, D).half()).dtype == torch.float16
