"""Families of Hugging Face, whose sites the computation shows, with the real library."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.differences import omegas_apart, outputs_apart
from _helpers.perturb import perturb_
from _helpers.small_huggingface import FAMILIES, bart, batch_of, bert, build
from torch import Tensor, nn

import admin_init
from admin_init.adapters.discovery import find_sites
from admin_init.sites import stacks

families = pytest.mark.parametrize("family", FAMILIES)


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**batch_of(model)).logits
    return logits


def rescale_(model: Any) -> Any:
    """Give ``model`` omegas that differ from site to site, and from channel to channel."""
    admin_init.install_(model, sites=find_sites(model, batch_of(model)))
    for i, site in enumerate(find_sites(model)):
        assert site.omega is not None
        nn.init.uniform_(site.omega, 1 + i / 2, 2 + i / 2)
    return model


@families
def test_sites_come_in_the_order_of_execution(family: str) -> None:
    model = build(family)
    sites = find_sites(model, batch_of(model))
    assert [site.name for site in sites] == FAMILIES[family][1]
    assert set(stacks(sites)) <= {"encoder", "encoder:2", "decoder", "transformer"}
    profile = admin_init.profile(model, [batch_of(model)])
    assert [site.name for site in profile.sites] == FAMILIES[family][1]
    # DeBERTa's convolution is added to the first layer's output, from which it is not computed.
    assert ("encoder:2" in {site.stack for site in profile.sites}) == ("conv" in family)
    for stack in {site.stack for site in profile.sites}:
        omegas = [site.omega for site in profile.sites if site.stack == stack]
        assert omegas[0] == 1
        assert all(1 < left < right < 20 for left, right in pairwise(omegas[1:]))
    assert not any(site.installed for site in sites)


@pytest.mark.support
@families
def test_the_norms_see_what_the_rule_asks_for(family: str, cells: Callable[..., None]) -> None:
    model = perturb_(build(family)).train()
    profile = admin_init.profile(model, [batch_of(model)])
    admin_init.apply_(model, profile)
    # Dropout is on, and draws what it drew for the profile.
    expected = []
    running: dict[str, float] = {}
    for site, (x, total) in zip(profile.sites, sums(model), strict=True):
        expected.append(running.get(site.stack, 1.0))
        variances = (site.omega * x).var(correction=0), (site.omega * (total - x)).var(correction=0)
        running[site.stack] = torch.stack(variances).sum().sqrt().item()
    # Float32: the branch is the difference of what enters the norm and the shortcut.
    assert [site.omega for site in profile.sites] == pytest.approx(expected, rel=1e-5)
    cells("Models", family, profile=f"{omegas_apart(profile, expected)} (norms)", rescale="yes")


@torch.no_grad()
def sums(model: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the shortcut of each site, and what its norm takes, in order of execution."""
    found: list[tuple[Tensor, Tensor]] = []
    shortcut: list[Tensor] = []

    def before_layer(layer: nn.Module, args: tuple[Any, ...]) -> None:
        shortcut[:] = args[:1]

    def after_norm(norm: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        found.append((shortcut.pop(), *args))
        shortcut.append(output)

    sites = find_sites(model)
    for layer in {re.sub(r"(\.\d+)\..*", r"\1", site.name) for site in sites}:
        model.get_submodule(layer).register_forward_pre_hook(before_layer)
    for site in sites:
        assert site.norm is not None
        site.norm.register_forward_hook(after_norm)
    model(**batch_of(model))
    return found


@families
def test_omega_of_one_changes_no_bit(family: str) -> None:
    model = build(family)
    expected, keys = outputs(model), list(model.state_dict())
    admin_init.install_(model, sites=find_sites(model, batch_of(model)))
    assert torch.equal(outputs(model), expected)
    assert len(model.state_dict()) == len(keys) + len(FAMILIES[family][1])
    for site in find_sites(model):
        site.uninstall_()
    assert list(model.state_dict()) == keys


@pytest.mark.support
@families
def test_fold(family: str, cells: Callable[..., None]) -> None:
    # transformers 4 cannot build the causal mask of BERT in float64.
    single = family == "BERT, decoder"
    model = rescale_(perturb_(build(family)).to(torch.float32 if single else torch.float64))
    expected = outputs(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    admin_init.fold_(model)
    # DeBERTa's layer norm computes in float32 whatever the model's type.
    tolerance = 1e-5 if single or family == "DeBERTa" else 1e-10
    torch.testing.assert_close(outputs(model), expected, rtol=tolerance, atol=tolerance)
    cells("Models", family, fold=outputs_apart(outputs(model), expected))
    plain = build(family)
    assert list(model.state_dict()) == list(plain.state_dict())
    # Only the linear layers in which the branches end have changed: no embedding, tied or not.
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    ends = set(FAMILIES[family][1])
    assert changed == {f"{name}.{part}" for name in ends for part in ("weight", "bias")}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@families
def test_a_folded_model_is_saved_and_loaded_by_transformers_alone(
    family: str, tmp_path: Path
) -> None:
    model = build(family)
    admin_init.apply_(model, admin_init.profile(model, [batch_of(model)]))
    rescaled = outputs(model)
    admin_init.fold_(model)
    # Float32: the rows of the last linear layer are divided before the sum instead of after it.
    torch.testing.assert_close(outputs(model), rescaled, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(outputs(loaded.eval()), outputs(model))


@families
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(family: str, clone: Callable[[Any], Any]) -> None:
    model = rescale_(build(family))
    expected = outputs(model)
    other = clone(model)
    assert torch.equal(outputs(other), expected)
    for site in find_sites(other):
        assert site.omega is not None
        site.omega.data.mul_(2)
    assert torch.equal(outputs(model), expected)
    assert not torch.allclose(outputs(other), expected)
    admin_init.fold_(other)
    assert list(other.state_dict()) == list(build(family).state_dict())


@pytest.mark.parametrize("small", [bert, bart])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(small: Callable[[], Any], use_reentrant: bool) -> None:
    torch.manual_seed(0)
    model = small()
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(1)
        profile = admin_init.profile(model, [batch_of(model)])
        admin_init.apply_(model, profile)
        torch.manual_seed(2)
        model.train().zero_grad()
        batch = batch_of(model)
        model(**batch, labels=batch.get("decoder_input_ids", batch["input_ids"])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        gradients[-1] |= {site.name: torch.tensor(site.omega) for site in profile.sites}
    assert len([name for name in gradients[0] if name.endswith(".omega")]) == len(profile.sites)
    torch.testing.assert_close(gradients[1], gradients[0])
