from __future__ import annotations

import pytest
import torch
from torch import nn

from admin_init import AdminInitError
from admin_init._utils.weight_averaging import average_checkpoints
from admin_init.translation.checkpoint import load_module


def test_control_characters_are_shown_and_the_rest_is_as_it_was() -> None:
    error = AdminInitError("f\u00fcnf \u2028\nline 2\t\x1b]0;title\x07\x9b2J \x7f")
    assert str(error) == "f\u00fcnf \u2028\nline 2\\t\\x1b]0;title\\x07\\x9b2J \\x7f"


def test_names_of_weights_command_no_terminal() -> None:
    weights = nn.Linear(2, 2).state_dict()
    evil = {"\x1b[2J": torch.ones(1)}
    for name, state in {"one": weights, "two": weights | evil}.items():
        torch.save({"state_dict": state, "hyper_parameters": {}}, f"{name}.ckpt")
    for refused in (
        lambda: average_checkpoints(["one.ckpt", "two.ckpt"]),
        lambda: load_module({"state_dict": evil}),
    ):
        with pytest.raises(AdminInitError) as caught:
            refused()
        assert "\x1b" not in str(caught.value)
        assert r"\x1b[2J" in str(caught.value)
