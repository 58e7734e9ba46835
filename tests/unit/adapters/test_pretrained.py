"""``save_pretrained`` of models with omegas."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from _helpers.perturb import train_omegas_
from _helpers.small_huggingface import V, bert
from safetensors.torch import load_file
from torch import Tensor, nn

import admin_init
from admin_init import FoldError


def initialized() -> Any:
    torch.manual_seed(0)
    model = bert()
    admin_init.initialize_(model, torch.randint(V, (4, 7)))
    return train_omegas_(model)


def scores(model: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(torch.arange(V)[None]).logits
    return out


@pytest.mark.parametrize("copied", ["itself", "deepcopy", "pickle", "inside another"])
def test_the_saved_model_is_plain_and_computes_the_same(copied: str, tmp_path: Path) -> None:
    model = initialized()
    if copied == "deepcopy":
        model = copy.deepcopy(model)
    elif copied == "pickle":
        model = pickle.loads(pickle.dumps(model))
    elif copied == "inside another":
        model = nn.ModuleDict({"teacher": nn.Linear(2, 2), "student": model})["student"]
    expected = scores(model)
    model.save_pretrained(tmp_path)
    assert not any("omega" in name for name in load_file(tmp_path / "model.safetensors"))
    plain = hf.AutoModelForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(scores(plain), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(scores(model), expected)


def test_a_state_dict_that_is_given_is_saved_as_it_is(tmp_path: Path) -> None:
    model = initialized()
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert any("omega" in name for name in load_file(tmp_path / "model.safetensors"))


def test_what_cannot_be_folded_is_refused(tmp_path: Path) -> None:
    model = initialized()
    nn.init.zeros_(admin_init.find_sites(model)[1].omega)
    with pytest.raises(FoldError, match="nothing was changed"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_after_the_fold_nothing_is_left_of_it() -> None:
    model = initialized()
    assert "save_pretrained" in vars(model)
    admin_init.fold_(model)
    assert not any("save_pretrained" in vars(module) for module in model.modules())
