"""What fairseq would have run as Python is read as a value, or refused."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fairseq import utils
from fairseq.data import FastaDataset

from admin_init.errors import AdminInitError
from admin_init.fairseq.plain import NotPlainError, literal, plain_options

PLAIN = [
    "(0.9, 0.98)",
    " [1, 2]",
    "1,2",
    "-3",
    "True",
    "None",
    "'a b'",
    "{'name': 'scaled_dot_product', 'p': [1]}",
    "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)]",
]
CODE = [
    "__import__('os').mkdir('exploited')",
    "exit()",
    "().__class__",
    "x",
    "f'{1}'",
    "lambda: 0",
    "[x for x in '1']",
    "1 if True else 2",
    "'a' * 10",
    "[[exit()]]",
    "[0] * exit()",
    "{'a': exit()}",
    "exit() + [0]",
    "",
    "\0",
    "[0] * 10001",
    "[0] * 1" + "0" * 30,
    "[0] * 9999 + [0] * 9999",
    "(" * 9999,
    "-" * 100_000 + "1",
    "[] + " * 20_000 + "[]",
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_value_is_what_eval_makes_of_it(text: str) -> None:
    assert literal(text) == eval(text.strip())


@pytest.mark.parametrize("text", CODE, ids=range(len(CODE)))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(NotPlainError, match="more than a plain value") as refused:
        literal(text)
    assert refused.value.value == text
    assert len(str(refused.value)) < 1000
    assert not Path("exploited").exists()


def test_what_is_no_string_is_as_little_taken_as_by_eval() -> None:
    value: Any = True
    with pytest.raises(TypeError, match="bool"):
        literal(value)
    assert utils.eval_bool(value, default=False) is False  # as fairseq has it


READERS: list[Callable[[str], Any]] = [utils.eval_str_dict, utils.eval_str_list, utils.eval_bool]


@pytest.mark.parametrize("reader", READERS)
def test_fairseqs_own_readers_run_nothing(reader: Callable[[str], Any]) -> None:
    with pytest.raises(NotPlainError):
        reader(CODE[0])
    assert not Path("exploited").exists()


def test_they_read_what_they_read_before() -> None:
    assert utils.eval_str_list("1,2", type=int) == [1, 2]
    assert utils.eval_str_dict("{'a': 2}") == {"a": 2}
    assert utils.eval_bool("True") is True


def test_no_module_of_fairseq_has_the_built_in_eval() -> None:
    folder = Path(utils.__file__).parent
    calls = re.compile(r"(?<![\w.])(eval|exec)\(")
    found = [
        ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if "examples" not in path.parts and calls.search(path.read_text("utf-8"))
    ]
    assert len(found) > 15
    assert {name: getattr(sys.modules[name], "eval", None) for name in found} == dict.fromkeys(
        found, literal
    )


def test_no_name_of_a_file_is_given_to_a_shell() -> None:
    Path("$(mkdir exploited).fasta").write_text(">a\nx\n")
    with pytest.raises(AdminInitError, match="would be read by a shell"):
        FastaDataset("$(mkdir exploited)")
    assert not Path("exploited").exists()


def test_options_lose_the_files_that_training_began_with() -> None:
    inner = {"embed_path": "a", "layers": [{"w2v_path": "b"}, "c"]}
    given = Namespace(
        encoder=inner, pretrained_checkpoint="d", load_pretrained_encoder_from="e", data="f"
    )
    kept = {"embed_path": None, "layers": [{"w2v_path": None}, "c"]}
    assert plain_options(given) == Namespace(
        encoder=kept, pretrained_checkpoint=None, load_pretrained_encoder_from=None, data="f"
    )
    assert plain_options({"pretrained_weights": True}) == {"pretrained_weights": True}
    assert given.encoder["embed_path"] == "a"


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${b}"])
def test_options_that_ask_for_other_values_are_refused(text: str) -> None:
    for options in (text, [text], {"a": {"b": text}}, Namespace(a=text)):
        with pytest.raises(AdminInitError, match=re.escape(repr(text))):
            plain_options(options)
