"""`admin-init profile --model`: what Admin finds in a model of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from _helpers.command_line import call
from torch import nn

from admin_init import AdminProfile, SitePattern, profile
from admin_init.adapters.survey import survey

SOURCE = """
import torch
from torch import nn

def transformer(**options):
    return nn.Transformer(32, 4, 1, 1, 64, batch_first=True, **options)

def pre():
    return transformer(norm_first=True)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.last = nn.LayerNorm(8)

number = 3

def batch():
    return torch.randn(2, 5, 32), torch.randn(2, 4, 32)
"""
PATTERN = "{branch: blocks.*.out, linear: blocks.*.out, norm: blocks.*.norm}"


@pytest.fixture(autouse=True)
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)


def test_the_sites_are_listed_in_their_order_and_what_is_left_over() -> None:
    done = call("profile", "--model", "users_models:transformer")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if line.strip()[:1].isdigit()]
    names = [row[1] for row in rows]
    assert names == [
        *(f"encoder.layers.0.{place}" for place in ("self_attn", "ffn")),
        *(f"decoder.layers.0.{place}" for place in ("self_attn", "cross_attn", "ffn")),
    ]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert "`decoder.norm`, a LayerNorm, follows no residual connection" in done.out


def test_a_model_without_sites_says_why() -> None:
    done = call("profile", "--model", "users_models:pre")
    assert done.code == 2
    assert "`encoder.layers.0` is Pre-LN (norm_first=True)" in done.out
    assert "Admin rescales the shortcuts of Post-LN layers" in done.err


def test_the_share_rule_takes_a_pre_ln_model() -> None:
    batch = ("--batch", "users_models:batch", "--output", "profile.json", "--rule", "share")
    done = call("profile", "--model", "users_models:pre", *batch, "--share", "0.25")
    assert done.code == 0, done.err
    taken = AdminProfile.load("profile.json")
    assert [site.name for site in taken.sites] == ["encoder.layers.0", "decoder.layers.0"]
    assert "encoder: share of the input" in done.out
    assert "-> 0.25" in done.out
    assert "is Pre-LN" not in done.out


def test_sites_can_be_named() -> None:
    done = call("profile", "--model", "users_models:Own")
    assert done.code == 2
    assert "`blocks.1.norm`, a LayerNorm, follows no" in done.out
    named = call("profile", "--model", "users_models:Own", "--sites", f"[{PATTERN}]")
    assert named.code == 0, named.err
    assert [name in named.out for name in ("blocks.0.out", "blocks.1.out")] == [True, True]
    assert "not supported: `last`, a LayerNorm" in named.out
    assert "blocks.1.norm" not in named.out


def test_a_norm_that_wraps_another_is_told_of_once() -> None:
    class LayerNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln, self.gamma = nn.LayerNorm(8), nn.Parameter(torch.ones(8))

    block = nn.ModuleDict({"out": nn.Linear(8, 8), "norm": LayerNorm()})
    model = nn.ModuleDict({"blocks": nn.ModuleList([block]), "last": LayerNorm()})
    pattern = SitePattern(branch="blocks.*.out", linear="blocks.*.out", norm="blocks.*.norm")
    assert list(survey(model, [pattern]).others) == ["last"]


def test_the_layers_that_a_mixed_model_leaves_out_are_named() -> None:
    def stack(**options: bool) -> nn.TransformerEncoder:
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **options)
        return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    model = nn.ModuleDict({"post": stack(), "pre": stack(norm_first=True)})
    found = survey(model)
    assert [site.stack for site in found.sites] == ["post", "post"]
    assert list(found.others) == ["pre.layers.0"]
    assert found.problem is None
    wrong = SitePattern(branch="a.*.b", linear="a.*.b", norm="a.*.c")
    assert "no module is named `a.*.b`" in (survey(model, [wrong]).problem or "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_models", "must be a module and a name in it, such as `my.net:Net`"),
        ("users_models:missing", "has no attribute 'missing'"),
        ("no_such_module:build", "No module named 'no_such_module'"),
        ("users_models:number", "must return an nn.Module, but returns an object of class int"),
    ],
)
def test_what_builds_no_model_is_refused(name: str, message: str) -> None:
    done = call("profile", "--model", name)
    assert done.code == 2
    assert message in done.err
    assert not done.out


def test_a_model_and_a_recipe_exclude_each_other() -> None:
    for arguments in ((), ("--recipe", "fit.yaml"), ("--model", "a:b", "--recipe", "fit.yaml")):
        done = call("profile", *arguments)
        assert done.code == 2
        assert "either `--recipe FILE --output FILE`" in done.err


def test_a_model_is_profiled_on_a_batch_that_is_named() -> None:
    done = call(
        "profile", "--model", "users_models:transformer", "--batch", "users_models:batch",
        "--output", "profile.json",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    found = AdminProfile.load("profile.json")
    assert str(found) in done.out
    torch.manual_seed(0)
    model = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)
    expected = profile(model, [(torch.randn(2, 5, 32), torch.randn(2, 4, 32))])
    assert [site.name for site in found.sites] == [site.name for site in expected.sites]
    # Drawn anew, so alike and not the same.
    ours, theirs = ([site.omega for site in each.sites] for each in (found, expected))
    assert ours == pytest.approx(theirs, rel=0.2)


def test_without_a_batch_there_is_no_profile() -> None:
    done = call("profile", "--model", "users_models:transformer", "--output", "profile.json")
    assert done.code == 2
    assert "Give a batch, or a function that returns one" in done.err
    assert not Path("profile.json").exists()
