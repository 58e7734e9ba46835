"""The architectures of `transformer_admin`: fairseq's own, with omegas."""

from argparse import Namespace

import pytest
import torch
from fairseq import models
from fairseq.data import Dictionary

from admin_init import NotPostLNError, find_sites
from admin_init.fairseq import plugin

ARCHITECTURES = {
    "transformer_admin": "transformer",
    "transformer_admin_iwslt_de_en": "transformer_iwslt_de_en",
    "transformer_admin_wmt_en_de": "transformer_wmt_en_de",
    "transformer_admin_wmt_en_de_big": "transformer_wmt_en_de_big",
}


@pytest.fixture
def task() -> Namespace:
    words = Dictionary()
    for word in "abcdefghijkl":
        words.add_symbol(word)
    return Namespace(source_dictionary=words, target_dictionary=words)


@pytest.mark.parametrize(("arch", "plain"), ARCHITECTURES.items())
def test_they_have_the_options_of_fairseqs(arch: str, plain: str) -> None:
    found, expected = Namespace(), Namespace()
    models.ARCH_CONFIG_REGISTRY[arch](found)
    models.ARCH_CONFIG_REGISTRY[plain](expected)
    assert found == expected
    assert found.encoder_normalize_before is False


@pytest.mark.parametrize(("arch", "plain"), ARCHITECTURES.items())
def test_they_have_the_weights_of_fairseqs_and_omegas(
    arch: str, plain: str, task: Namespace
) -> None:
    with torch.device("meta"):
        model = models.build_model(Namespace(arch=arch, admin_profiled=True), task)
        expected = models.build_model(Namespace(arch=plain), task)
    assert type(model) is plugin.AdminTransformerModel
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    found = [shapes.pop(name) for name in list(shapes) if name.endswith(".omega")]
    assert found == [(1024 if arch.endswith("big") else 512,)] * (6 * 2 + 6 * 3)
    assert shapes == {name: weight.shape for name, weight in expected.state_dict().items()}
    assert all(site.installed for site in find_sites(model))


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_pre_ln_is_refused(side: str, task: Namespace) -> None:
    options = {f"{side}_normalize_before": True, f"{side}_layers": 1}
    with pytest.raises(NotPostLNError, match=f"--{side}-normalize-before"):
        models.build_model(Namespace(arch="transformer_admin", **options), task)
