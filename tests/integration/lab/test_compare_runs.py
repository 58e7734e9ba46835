"""What the settings of a comparison do to a run."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from admin_init import AdminProfile
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Variant
from admin_init.lab.comparison.history import Course
from admin_init.lab.comparison.result import Result
from admin_init.lab.comparison.run import train
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.preparation.prepare import prepare

POST = Variant("post", "1-1", 5e-3, 1)
COMMON: dict[str, Any] = {
    "corpus": CorpusConfig(kind="embedded", train=200, valid=30, test=10),
    "vocabulary_size": 300,
    "transformer": {"dim": 16, "ffn_dim": 32, "heads": 2, "dropout": 0.1},
    "optimization": {"warmup_steps": 10},
    "max_steps": 10,
    "max_tokens": 300,
    "validate_every": 5,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("runs") / "data-bin"
    prepare(COMMON["corpus"].open(), data, vocabulary_size=300)
    return data


def run(data: Path, variant: Variant = POST, **changed: Any) -> Result:
    output = Path("out")
    output.mkdir()
    (output / "data-bin").symlink_to(data)
    result = train(Comparison(**COMMON | {"output": str(output)} | changed), variant, 4.0)
    output.rename(f"out-{len(list(Path().glob('out-*')))}")
    return result


def course(result: Result, **changed: Any) -> Course:
    """The course of a run without its seconds, the only ones that another computation changes."""
    return replace(result.history, seconds=0.0, **changed)


def timeless(result: Result, **changed: Any) -> Result:
    return replace(result, history=course(result, **changed))


def profile_of(folder: Path) -> AdminProfile:
    (saved,) = folder.rglob("admin_profile.json")
    return AdminProfile.load(saved)


def test_omegas_by_rule(data: Path) -> None:
    found = []
    for number, changed in enumerate(
        (
            {},
            {"admin": {"share": 0.75}},
            {"admin": {"rule": "share", "share": 0.75}},
            {"omega": 3.0},
        )
    ):
        run(data, replace(POST, residual="admin"), max_steps=1, **changed)
        found.append(profile_of(Path(f"out-{number}")))
    assert [profile.rule for profile in found] == ["reference", "reference", "share", "reference"]
    assert found[0] == found[1]
    assert found[2].share == 0.75
    assert {site.omega for site in found[3].sites} == {3.0}
    run(data, replace(POST, residual="admin-share"), max_steps=1, admin={"share": 0.75})
    assert profile_of(Path("out-4")) == found[2]
    run(data, replace(POST, residual="admin-share"), max_steps=1)
    assert profile_of(Path("out-5")).share == 0.5


def test_a_budget_in_minutes_alone(data: Path) -> None:
    result = run(data, max_steps=None, max_minutes=0.02)
    assert 1.2 <= result.history.seconds < 30
    assert result.updates == len(result.history.train_loss) > 5
    assert result.history.validation[-1].step == result.updates
    assert result.row()["updates"] == result.updates


def test_whichever_comes_first(data: Path) -> None:
    assert run(data, max_steps=10, max_minutes=60).updates == 10
    assert run(data, max_steps=10_000, max_minutes=1e-6).updates == 1


def test_the_minutes_before_an_interruption_count(data: Path) -> None:
    first = run(data, max_steps=None, max_minutes=0.01)
    Path("out-0", POST.name, "result.json").unlink()
    comparison = Comparison(**COMMON | {"output": "out-0", "max_steps": None, "max_minutes": 0.01})
    again = train(comparison, POST, 4.0)
    assert again.updates == first.updates
    assert timeless(again) == timeless(first)
    more = train(replace(comparison, max_minutes=0.02), POST, 4.0)
    assert more.updates > first.updates
    assert more.history.train_loss[: first.updates] == first.history.train_loss
    assert 1.2 <= more.history.seconds < 30


@pytest.mark.parametrize("residual", ["post", "admin"])
def test_the_loss_before_the_first_update_disturbs_nothing(data: Path, residual: str) -> None:
    variant = replace(POST, residual=residual)
    plain, sensitive = run(data, variant), run(data, variant, sensitivity=True)
    assert plain.history.initial_nll is None
    assert timeless(sensitive, initial_nll=None) == timeless(plain)
    # With a learning rate of next to nothing it is the final one.
    still = run(
        data,
        replace(variant, learning_rate=1e-12),
        sensitivity=True,
        optimization={"warmup_steps": 0, "schedule": "constant"},
    )
    assert still.history.initial_nll == pytest.approx(still.val_nll, rel=1e-5)
    assert still.history.initial_nll == pytest.approx(sensitive.history.initial_nll, rel=1e-5)


def test_the_monitor_disturbs_nothing_and_logs(data: Path) -> None:
    plain, monitored = run(data), run(data, monitor_every=5)
    assert timeless(monitored) == timeless(plain)
    events = b"".join(p.read_bytes() for p in Path("out-1", POST.name).glob("events.out.*"))
    assert b"stability/grad_norm/" in events


def test_batch_size_and_precision(data: Path) -> None:
    plain = run(data)
    tokens = run(data, replace(POST, others={"max_tokens": 600}))
    assert course(tokens) == course(run(data, max_tokens=600)) != course(plain)
    assert tokens.variant.name == "post_1-1_lr0.005_tokens600_seed1"
    mixed = run(data, replace(POST, others={"precision": "bf16-mixed"}))
    assert course(mixed) == course(run(data, precision="bf16-mixed")) != course(plain)
    assert mixed.val_nll == pytest.approx(plain.val_nll, rel=0.01)
    saved = torch.load(Path("out-3", mixed.variant.name, "last.ckpt"), weights_only=True)
    assert {w.dtype for w in saved["state_dict"].values() if w.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize("residual", ["post", "admin"])
def test_bf16_weights(data: Path, residual: str) -> None:
    result = run(
        data, replace(POST, residual=residual, others={"precision": "bf16-true"}), sensitivity=True
    )
    assert math.isfinite(result.val_nll)
    assert result.history.initial_nll is not None
    assert result.val_nll < result.history.initial_nll


@pytest.mark.parametrize("residual", ["post", "admin"])
def test_scales_and_tied_embeddings(data: Path, residual: str) -> None:
    one = replace(POST, residual=residual)
    others = {"branch_scale": 4.0, "input_scale": 3.0, "share_embeddings": "none"}
    scaled = run(data, replace(one, others={"initialization": "torch", **others}))
    options = COMMON["transformer"] | others | {"initialization": "torch"}
    assert course(scaled) == course(run(data, one, transformer=options)) != course(run(data, one))
    assert scaled.variant.name == (
        f"{residual}_1-1_lr0.005_init-torch_branch4_input3_tied-none_seed1"
    )


def test_spikes_are_updates_above_the_running_median(data: Path) -> None:
    result = run(data, replace(POST, learning_rate=0.5), max_steps=40, validate_every=20)
    losses, spikes = result.history.train_loss, []
    for update in range(2, 41):
        before = sorted(losses[: update - 1])
        median = (before[(update - 2) // 2] + before[(update - 1) // 2]) / 2
        if losses[update - 1] > median + 0.1:
            spikes.append(update)
    assert 0 < len(spikes) < 40
    assert result.history.spikes == spikes


def test_a_result_of_an_earlier_version_can_be_read(data: Path) -> None:
    result = run(data)
    path = Path("out-0", POST.name, "result.json")
    values = json.loads(path.read_text())
    for name in (
        "width",
        "warmup_steps",
        "max_tokens",
        "precision",
        "beta2",
        "initialization",
        "branch_scale",
        "input_scale",
        "share_embeddings",
        "initial_nll",
        "checksum",
    ):
        del values[name]
    path.write_text(json.dumps(values))
    assert Result.load(path) == result
    assert Result.load(path).variant == POST
    assert Result.load(path).variant.group == "post_1-1_lr0.005"


def test_a_diverged_run_that_lost_its_result_makes_no_other_update(data: Path) -> None:
    diverging = replace(POST, learning_rate=1e30)
    first = run(data, diverging)
    assert first.updates < 10
    path = Path("out-0", diverging.name, "result.json")
    before = figures(path)
    path.unlink()
    again = train(Comparison(**COMMON | {"output": "out-0"}), diverging, 4.0)
    assert again.updates == first.updates
    assert figures(path) == before


def figures(path: Path) -> str:
    """What is the same in another computation; as text, in which NaN equals NaN."""
    values = json.loads(path.read_text())
    return json.dumps({k: v for k, v in values.items() if k not in ("seconds", "checksum")})
