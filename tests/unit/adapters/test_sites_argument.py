"""What every ``sites=`` takes: sites that were found, or patterns of their names."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.small_named import PATTERNS, D, Model, sites_of
from torch import nn

import admin_init
from admin_init import AdminInitError
from admin_init.adapters.discovery import resolve_sites
from admin_init.adapters.survey import survey
from admin_init.folding import folded

X = torch.randn(3, 5, D, generator=torch.Generator().manual_seed(1))


def model() -> Model:
    torch.manual_seed(0)
    return Model()


def train(model: Model, sites: Callable[[nn.Module], Any]) -> dict[str, torch.Tensor]:
    """Do to a model all that there is a ``sites=`` for, and return its folded weights."""
    profile = admin_init.profile(model, [X], sites=sites(model))
    admin_init.install_(model, sites=sites(model))
    admin_init.apply_(model, profile, sites=sites(model))
    decayed, spared = admin_init.parameter_groups(model, 0.1, sites=sites(model))
    assert len(spared["params"]) == 3  # all but the first
    optimizer = torch.optim.AdamW([decayed, spared], lr=0.1)
    model(X).square().mean().backward()
    optimizer.step()
    with folded(model.eval(), lambda: model(X), sites=sites(model)):
        pass
    return admin_init.fold_(model, sites=sites(model)).state_dict()


def test_patterns_and_sites_are_the_same_everywhere() -> None:
    expected = train(model(), sites_of)
    for name, value in train(model(), lambda _: PATTERNS).items():
        assert torch.equal(value, expected[name]), name
    found = survey(model(), PATTERNS).sites
    assert [site.name for site in found] == [site.name for site in sites_of(model())]
    assert survey(model(), found).sites == found


def test_one_call_profiles_and_rescales() -> None:
    expected, ours = model(), model()
    profile = admin_init.profile(expected, [X], rule="constant", sites=PATTERNS)
    admin_init.apply_(expected, profile, sites=PATTERNS)
    assert admin_init.initialize_(ours, X, rule="constant", sites=PATTERNS) == profile
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected.get_parameter(name)), name
    trained = [site.omega.requires_grad for site in sites_of(ours) if site.omega is not None]
    assert trained == [False, True, True, True]


def test_one_call_takes_what_profile_takes() -> None:
    ours, calls = nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 4, 32), 2), []

    def forward(model: nn.Module, batch: str) -> None:
        calls.append(batch)
        model(X)

    profile = admin_init.initialize_(ours, "a batch", forward=forward, trainable=False)
    assert calls == ["a batch"]
    sites = admin_init.find_sites(ours)
    assert [site.omega[0].item() for site in sites if site.omega is not None] == pytest.approx(
        [site.omega for site in profile.sites]
    )
    assert not any(site.omega.requires_grad for site in sites if site.omega is not None)
    assert admin_init.parameter_groups(ours, 0.1)[1]["params"] == []


def test_where_it_cannot_be_rescaled_nothing_has_changed() -> None:
    ours = model().half()
    before = copy.deepcopy(ours.state_dict())
    with torch.no_grad():
        ours.encoder.layers[0].fc2.weight.fill_(6e4)  # type: ignore[union-attr,index]
    with pytest.raises(admin_init.ProfileError):
        admin_init.initialize_(ours, X.half(), sites=PATTERNS)
    assert ours.state_dict().keys() == before.keys()


@pytest.mark.parametrize("wrong", [[*PATTERNS, "layers.*"], 3])
def test_what_is_neither_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="`sites` must be a list of SitePatterns, or of sites"):
        resolve_sites(model(), wrong)
    mixed = [*PATTERNS, *sites_of(model())]
    with pytest.raises(TypeError):
        admin_init.install_(model(), sites=mixed)  # type: ignore[arg-type]


def test_a_file_of_sites_can_be_edited_and_given_back() -> None:
    expected = admin_init.profile(model(), [X])
    admin_init.save_sites(admin_init.find_sites(model(), X), "sites.json")
    assert admin_init.profile(model(), [X], sites="sites.json") == expected
    records = json.loads(Path("sites.json").read_text())
    assert records[1] == {
        "name": "encoder.layers.0.fc2",
        "stack": "encoder",
        "previous": "encoder.layers.0.attention.output",
        "place": {
            "branch": "encoder.layers.0.fc2",
            "norm": "encoder.layers.0.norm",
            "width": D,
            "weights": {"encoder.layers.0.fc2.weight": -2},
        },
    }
    # Leave out the first sub-layer.
    records[1]["previous"] = None
    Path("sites.json").write_text(json.dumps(records[1:]))
    shorter = admin_init.profile(model(), [X], sites=Path("sites.json"))
    assert [site.name for site in shorter.sites] == [site.name for site in expected.sites][1:]
    assert shorter.sites[0].omega == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"`sites` is 'sites.json', but there is no such file.*`save_sites`"),
        ("[]", r"sites.json holds no sites"),
        ('[{"name": 3, "stack": "e", "previous": null}]', r"sites.json.*`\[0\].name` is 3"),
        ('[{"name": "a.b", "stack": "e", "previous": null}]', r"no layer of a known family at"),
        (
            '[{"name": "a", "stack": "e", "previous": null, "place": {"branch": "a"}}]',
            r"recorded site `a` does not fit Model",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text: str | None, message: str) -> None:
    if text is not None:
        Path("sites.json").write_text(text)
    with pytest.raises(AdminInitError, match=message):
        admin_init.install_(model(), sites="sites.json")
