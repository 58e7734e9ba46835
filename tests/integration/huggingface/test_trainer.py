"""AdminCallback in the Trainer of transformers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from _helpers import huggingface_runs
from _helpers.forked import together
from _helpers.huggingface_runs import omegas, outputs, rows, trainer
from _helpers.plain_post_ln import D, Einsum, Stack
from _helpers.small_huggingface import bert
from torch import Tensor, nn

import admin_init
from admin_init import (
    AdminInitError,
    AdminProfile,
    FoldError,
    NotPostLNError,
    ProfileError,
    TrainedModelError,
)
from admin_init.huggingface import AdminCallback

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_first_batch_is_profiled_and_trained_on() -> None:
    done = trainer(None, callback := AdminCallback(), args={"learning_rate": 0.0})
    bare = copy.deepcopy(done.model)
    first: list[dict[str, Any]] = []
    done.model.register_forward_pre_hook(
        lambda model, args, kwargs: first.append(dict(kwargs)), with_kwargs=True
    )
    done.train()
    assert callback.profile is not None
    # The profile's pass, and a pass for each of the four updates.
    assert len(first) == 5
    assert torch.equal(first[0]["input_ids"], first[1]["input_ids"])
    by_hand = admin_init.profile(bare, [{k: first[0][k] for k in ("input_ids", "labels")}])
    found = [site.omega for site in callback.profile.sites]
    # Dropout is drawn anew.
    assert found == pytest.approx([site.omega for site in by_hand.sites], rel=0.1)
    assert [omega.mean().item() for omega in omegas(done.model).values()] == pytest.approx(found)
    assert AdminProfile.load("out/admin_profile.json") == callback.profile


def test_the_share_rule() -> None:
    done = trainer(None, callback := AdminCallback(rule="share", share=0.25))
    done.train()
    profile = callback.profile
    assert profile is not None
    assert profile.passes > 2
    assert callback.state()["args"]["share"] == 0.25
    first = profile.sites[0]
    branches = sum(site.variance for site in profile.sites)
    assert first.omega**2 * first.shortcut_variance == pytest.approx(branches / 3, rel=1e-5)


def test_training_is_that_of_a_model_with_the_omegas_of_a_file() -> None:
    profiled = trainer(None, callback := AdminCallback())
    profiled.train()
    assert callback.profile is not None
    callback.profile.save("profile.json")
    given = trainer(None, AdminCallback(profile="profile.json"))
    given.train()
    weights, others = (done.model.state_dict() for done in (profiled, given))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    plain = trainer()
    plain.train()
    losses = [[row["loss"] for row in d.state.log_history[:-1]] for d in (profiled, plain)]
    assert losses[0] != losses[1]


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped() -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = trainer(None, callback := AdminCallback(), args=saving)
    whole.train()
    resumed = trainer(None, again := AdminCallback(), args=saving)
    resumed.train(resume_from_checkpoint="out/checkpoint-2")
    assert again.profile == callback.profile
    weights, others = (done.model.state_dict() for done in (whole, resumed))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_second_training_of_the_same_trainer_keeps_the_omegas() -> None:
    done = trainer(None, callback := AdminCallback())
    done.train()
    profile, before = callback.profile, omegas(done.model)
    done.args.learning_rate = 0.0
    done.optimizer = None
    done.train()
    assert callback.profile == profile
    assert all(torch.equal(before[name], omega) for name, omega in omegas(done.model).items())


def test_a_callback_that_was_used_before_profiles_another_model() -> None:
    trainer(None, callback := AdminCallback()).train()
    first = callback.profile
    done = trainer(bert(initializer_range=0.5), callback)
    done.train()
    assert callback.profile is not None
    assert callback.profile != first
    assert all((omega != 1).any() for omega in list(omegas(done.model).values())[1:])


def test_what_is_saved_afterwards_is_a_plain_model() -> None:
    done = trainer(None, AdminCallback())
    done.train()
    done.save_model("saved")
    assert omegas(done.model)
    plain = hf.AutoModelForMaskedLM.from_pretrained("saved")
    assert not omegas(plain)
    torch.testing.assert_close(outputs(plain), outputs(done.model), rtol=1e-4, atol=1e-4)


def test_omega_is_spared_from_weight_decay_unless_it_is_wanted() -> None:
    settings = {"weight_decay": 1.0, "learning_rate": 1e-1, "optim": "sgd", "max_steps": 1}
    means = []
    for decayed in (False, True):
        done = trainer(None, AdminCallback(weight_decay=decayed), args=settings)
        done.train()
        means.append(torch.stack([omega.mean() for omega in omegas(done.model).values()]))
    assert means[1][1:].tolist() == pytest.approx((0.9 * means[0][1:]).tolist(), rel=0.05)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"bf16": True}, 2e-3),
        ({"torch_compile": True, "torch_compile_backend": "eager"}, 0),
        ({"gradient_accumulation_steps": 2}, 0),
    ],
)
def test_the_omegas_are_the_same_with_other_settings(
    settings: dict[str, Any], tolerance: float
) -> None:
    found = []
    for changed in ({}, settings):
        trainer(None, callback := AdminCallback(), args=changed | {"max_steps": 1}).train()
        assert callback.profile is not None
        found.append([site.omega for site in callback.profile.sites])
    assert found[1] == pytest.approx(found[0], rel=tolerance)


def test_two_ranks_have_the_same_omegas() -> None:
    together(huggingface_runs.train)
    first, second = (torch.load(f"rank{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    profiles = [json.loads(Path(f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert profiles[0] == profiles[1]
    assert profiles[0]["batches"] == 2


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stack, self.used = Stack(Einsum), 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.used += 1
        return {"loss": (self.stack(x) - 1).square().mean()}


def data() -> list[dict[str, Tensor]]:
    return [{"x": row} for row in torch.randn(16, 5, D, generator=torch.Generator().manual_seed(0))]


def test_a_model_in_plain_torch() -> None:
    callback = AdminCallback(example={"x": torch.randn(2, 5, D)})
    done = hf.Trainer(
        Regression(), huggingface_runs.arguments(), train_dataset=data(), callbacks=[callback]
    )
    assert len(omegas(done.model)) == 3
    done.train()
    assert callback.profile is not None
    assert [site.name for site in callback.profile.sites] == [
        f"stack.layers.{i}.dropout" for i in range(3)
    ]
    assert done.model.used == 4


def test_some_are_left_out() -> None:
    done = trainer(None, callback := AdminCallback(exclude=["*.layer.0"]))
    done.train()
    assert callback.profile is not None
    assert {site.name.split(".")[3] for site in callback.profile.sites} == {"1"}


def test_an_evaluation_before_the_first_batch_is_not_profiled() -> None:
    args = {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 4}
    done = trainer(None, callback := AdminCallback(), args=args, eval_dataset=rows(2))
    done.train()
    assert callback.profile is not None
    assert callback.profile.sites[0].elements == 4 * 9 * 32


def gpt2(*, tied: bool) -> hf.GPT2LMHeadModel:
    config = hf.GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, tie_word_embeddings=tied)
    torch.manual_seed(1)
    return hf.GPT2LMHeadModel(config)


def test_a_pre_ln_model_with_the_share_rule() -> None:
    callback = AdminCallback(rule="share", share=0.7)
    done = trainer(gpt2(tied=False), callback)
    done.train()
    assert callback.profile is not None
    (site,) = callback.profile.sites
    assert site.name == "transformer.drop"
    scaled = site.omega**2 * site.shortcut_variance
    assert scaled / (scaled + site.variance) == pytest.approx(0.7, rel=1e-5)
    done.save_model("plain")
    plain = hf.GPT2LMHeadModel.from_pretrained("plain").eval()
    ids = torch.arange(3, 15).view(2, 6)
    torch.testing.assert_close(
        plain(ids).logits, done.model.eval()(ids).logits, rtol=1e-4, atol=1e-5
    )


def test_what_cannot_be_saved_as_a_plain_model_is_said_before_the_training() -> None:
    done = trainer(gpt2(tied=True), AdminCallback(rule="share"))
    with pytest.warns(UserWarning, match=r"`save_pretrained` will refuse .* read by several"):
        done.train()
    with pytest.raises(FoldError, match="weights are read by several operations"):
        done.save_model("plain")


class TestRefusals:
    def test_models(self) -> None:
        config = hf.GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2)
        with pytest.raises(NotPostLNError):
            trainer(hf.GPT2LMHeadModel(config), AdminCallback())
        with pytest.raises(ProfileError, match=r"`dummy_inputs`, but the model has no"):
            trainer(Regression(), AdminCallback())
        config = hf.Wav2Vec2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        with pytest.raises(ProfileError, match=r"failed on them: .*`AdminCallback\(example=batch"):
            trainer(hf.Wav2Vec2Model(config), AdminCallback())

    def test_a_trained_model_before_its_first_update_unless_forced(self) -> None:
        model = bert()
        nn.init.constant_(model.bert.encoder.layer[0].output.LayerNorm.weight, 0.9)
        with pytest.raises(TrainedModelError, match="norm gain"):
            trainer(copy.deepcopy(model), AdminCallback()).train()
        trainer(model, callback := AdminCallback(force=True)).train()
        assert callback.profile is not None

    @pytest.mark.parametrize("how", ["added late", "model_init"])
    def test_a_model_without_omegas(self, how: str) -> None:
        if how == "added late":
            done = trainer()
            done.add_callback(AdminCallback())
        else:
            done = hf.Trainer(
                args=huggingface_runs.arguments(),
                train_dataset=rows(),
                model_init=lambda trial=None: bert(),
                callbacks=[AdminCallback()],
            )
        with pytest.raises(ProfileError, match="Pass AdminCallback to the Trainer in `callbacks="):
            done.train()

    def test_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("fp16", True), ("_n_gpu", 2), ("fsdp", True), ("deepspeed", "x")):
            args = huggingface_runs.arguments()
            setattr(args, name, value)
            with pytest.raises(AdminInitError, match="has not been tested with"):
                AdminCallback().on_init_end(args, None, None, model=bert())  # type: ignore[arg-type]

    def test_an_optimizer_that_has_no_omega_is_warned_of(self) -> None:
        torch.manual_seed(1)
        model = bert()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        done = trainer(model, AdminCallback(), optimizers=(optimizer, None))
        with pytest.warns(UserWarning, match="No optimizer has 3 of the omegas"):
            done.train()

    def test_a_checkpoint_without_profile_is_kept_with_a_warning(self) -> None:
        # An optimizer's state without omegas is refused by torch.
        saving = {"save_strategy": "steps", "save_steps": 2, "save_only_model": True}
        trainer(args=saving).train()
        done = trainer(None, callback := AdminCallback(), args=saving)
        with pytest.warns(UserWarning, match="at update 2, holds no profile, and its omegas are"):
            done.train(resume_from_checkpoint="out/checkpoint-2")
        assert callback.profile is None
