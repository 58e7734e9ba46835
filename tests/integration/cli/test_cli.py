"""`admin-init` as a user meets it: its help, and its examples."""

import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from _helpers import ROOT
from _helpers.command_line import Done, call, start

from admin_init import AdminProfile
from admin_init.cli import main as cli
from admin_init.lab.comparison.config import Comparison
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.recipe_cli import recipe_cli
from admin_init.translation.translate import Translator

RECIPES = ROOT / "recipes"
COMMANDS = list(cli.COMMANDS)
CORPUS = ["--corpus.train", "200", "--corpus.valid", "30", "--corpus.test", "10"]
TINY_TRAINER = [
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"),
    *("--data.max_tokens", "300"),
    *("--model.transformer.dim", "16", "--model.transformer.ffn_dim", "32"),
    *("--model.search.beam_size", "1", "--model.search.max_len_b", "9"),
]
# What makes the examples short; they do the same, to a smaller model and a smaller corpus.
SHRINK = {
    "prepare": [*CORPUS, "--vocabulary_size", "300"],
    "compare": [
        *CORPUS,
        *("--vocabulary_size", "300", "--max_steps", "4", "--validate_every", "2"),
        *("--grid.depth", '["1-1"]', "--grid.residual", '["admin"]'),
        *("--transformer", '{"dim": 16, "ffn_dim": 32, "heads": 2}'),
    ],
    **dict.fromkeys(("fit", "validate", "test", "predict"), TINY_TRAINER),
    "translate": ["--beam_size", "1"],
}
CHECKPOINT = "runs/multi30k_en_de/admin_4-4/checkpoints/last.ckpt"
DATA = "data-bin/multi30k_en_de"


@pytest.fixture(scope="session")
def help_of() -> Callable[[str], str]:
    """The help of a command, of which that of a Trainer's method takes seconds to build."""
    texts: dict[str, str] = {}

    def text(command: str) -> str:
        if command not in texts:
            done = call(command, "--help")
            assert done.code == 0
            texts[command] = done.out
        return texts[command]

    return text


def examples(text: str) -> list[str]:
    return re.findall(r"^ +((?:echo .* \| )?admin-init .*)$", text.partition("options:")[0], re.M)


def run_example(line: str, options: list[str]) -> Done:
    said, _, command = line.rpartition(" | ")
    _, *arguments = shlex.split(command)
    stdin = " ".join(shlex.split(said)[1:]) + "\n" if said else ""
    return call(*arguments, *options, stdin=stdin.encode())


@pytest.fixture(scope="session")
def workshop(
    tmp_path_factory: pytest.TempPathFactory, help_of: Callable[[str], str]
) -> tuple[Path, dict[str, Done]]:
    """A folder in which the example of every help has been run, in the order of the overview."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(RECIPES, folder / "recipes")
    with contextlib.chdir(folder):
        # The embedded corpus stands in for Multi30k, which is downloaded.
        assert call("prepare", "--destination", DATA, *SHRINK["prepare"]).code == 0
        done = {}
        for command in COMMANDS:
            (line,) = examples(help_of(command))
            done[command] = run_example(line, SHRINK.get(command, []))
    return folder, done


@pytest.fixture
def folder(workshop: tuple[Path, dict[str, Done]], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workshop[0])
    return workshop[0]


@pytest.fixture
def done(workshop: tuple[Path, dict[str, Done]]) -> dict[str, Done]:
    return workshop[1]


# ---------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview_lists_every_command(arguments: list[str]) -> None:
    shown = call(*arguments)
    assert shown.code == 0
    listed = dict(re.findall(r"^  (\w+) +([A-Z].*)$", shown.out, re.M))
    assert sorted(listed) == sorted(COMMANDS)
    assert examples(shown.out) == ["admin-init compare --config recipes/demo/compare.yaml"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_head_of_every_help(command: str, help_of: Callable[[str], str]) -> None:
    """Purpose, what is required, and an example, within one screen."""
    text = help_of(command)
    head = text.splitlines()[:24]
    first = {"convert": "CHECKPOINT OUTPUT", "fold": "CHECKPOINT OUTPUT", "study": "NAME"}
    assert head[0].startswith(f"usage: admin-init {command} {first.get(command, '--')}")
    assert head[0].endswith("[--OPTION VALUE ...]")
    assert re.fullmatch(r"[A-Z].*\.", head[2])
    (example,) = examples("\n".join(head))
    # The example gives what the usage requires.
    for option in re.findall(r"--[a-z_]+", head[0]):
        assert option in example
    # Every option says what it is for.
    assert not re.findall(r"^  --[a-z_.]+ [A-Z_]+\n(?=  --)", text, re.M)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_checkpoint_is_among_the_first_options(
    command: str, help_of: Callable[[str], str]
) -> None:
    first = help_of(command).partition("Customize every aspect")[0]
    assert "  --ckpt_path CKPT_PATH" in first


def test_the_overview_says_what_each_help_says(help_of: Callable[[str], str]) -> None:
    overview = call("--help").out
    for command in COMMANDS:
        assert help_of(command).splitlines()[2] in overview


@pytest.mark.parametrize(
    ("command", "comment"),
    [
        ("fit", "# Number of channels D of the residual stream."),
        ("translate", "# Beam size; the one stored in the checkpoint by default."),
    ],
)
def test_settings_can_be_printed_with_their_help(command: str, comment: str) -> None:
    found = call(command, "--print_config=comments")
    assert found.code == 0, found.err
    assert comment in found.out


# ------------------------------------------------------------------------------------ examples


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_works(command: str, done: dict[str, Done]) -> None:
    assert done[command].code == 0, done[command].err
    assert "Traceback" not in done[command].err


def test_what_the_examples_leave_behind(folder: Path, done: dict[str, Done]) -> None:
    assert "200 pairs read" in done["prepare"].out
    assert Path("data-bin/embedded/prepare.json").exists()
    for name in ("report.html", "report.png", "results.jsonl"):
        assert f"runs/demo/{name}" in done["compare"].out
        assert Path(f"runs/demo/{name}").exists()
    assert "runs/both/report.html" in done["merge"].out
    assert (
        Path("runs/both/results.jsonl").read_text() == Path("runs/demo/results.jsonl").read_text()
    )
    assert "own branch" in done["study"].out
    assert Path("runs/lab/dependency/dependency.png").exists()
    assert "val_nll" in done["validate"].out
    assert "val_source_gain" in done["validate"].out
    assert "test_bleu" in done["test"].out
    assert "rule:reference" in done["profile"].out
    assert done["translate"].out.count("\n") == 1
    assert re.match(r"folded\.ckpt: outputs differ by at most \S+e-\d+", done["fold"].out)
    assert not any(".omega" in key for key in torch.load("folded.ckpt")["state_dict"])
    assert list(Path("runs/multi30k_en_de/admin_4-4").glob("events.out.tfevents.*"))


def test_prediction_prints_the_translations_of_the_split(
    folder: Path, done: dict[str, Done]
) -> None:
    data = TranslationDataModule(DATA, "en", "de")
    sources = [
        data.tokenizer.decode(data.source_dictionary.decode(ids.tolist()))
        for ids in data.pairs("test").source
    ]
    translator = Translator(CHECKPOINT, beam_size=1)
    expected = list(translator(sources))
    assert done["predict"].out.splitlines() == expected


# Every line of standard output, by command.
TABLE = r"[\u2500-\u257f ]*([\w.]+ *[\u2502\u2503] *)?.*[\u2500-\u257f]"
RESULTS = {
    "prepare": r"(dictionary|train|valid|test): .*",
    "fit": r"nothing",
    "validate": TABLE,
    "test": TABLE,
    "average": r"\S+: (epoch \d+, update \d+|their average)",
    "fold": r"folded\.ckpt: outputs differ by .*",
    "convert": r"checkpoint\.pt: .*",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_standard_output_is_results_alone(command: str, done: dict[str, Done]) -> None:
    lines = done[command].out.splitlines()
    for line in lines:
        assert re.fullmatch(RESULTS.get(command, ".*"), line)
        # Bars, and what Lightning says on the way.
        assert not re.search(r"\d:\d\d:\d\d|it/s|available: |Seed set|Tip|`Trainer", line)
    assert bool(lines) == (command != "fit")
    # How a training goes is told elsewhere.
    assert ("val_nll" in done[command].err) == (command == "fit")


def test_the_profile_is_that_of_the_fit(folder: Path) -> None:
    """Same seed, same weights, same batch, same dropout: the same omegas, to the last digit."""
    recipe = yaml.safe_load(Path("recipes/multi30k_en_de/fit.yaml").read_text())
    recipe["model"]["transformer"] |= {"dim": 16, "ffn_dim": 32}
    recipe["data"]["max_tokens"] = 300
    Path("small.yaml").write_text(yaml.safe_dump(recipe))
    assert call("profile", "--recipe", "small.yaml", "--output", "small.json").code == 0
    fitted = AdminProfile.load(Path(CHECKPOINT).with_name("admin_profile.json"))
    assert AdminProfile.load("small.json") == fitted
    assert recipe["model"]["transformer"]["dropout"] > 0
    # And several batches are averaged.
    assert (
        call(
            "profile", "--recipe", "small.yaml", "--output", "3.json", "--batches", "3",
            "--rule", "paper",
        ).code
        == 0
    )  # fmt: skip
    several = AdminProfile.load("3.json")
    assert (several.batches, several.rule) == (3, "paper")
    assert several.elements > fitted.elements
    share = ("--rule", "share", "--share")
    assert call("profile", "--recipe", "small.yaml", "--output", "s.json", *share, "0.75").code == 0
    assert AdminProfile.load("s.json").share == 0.75
    refused = call("profile", "--recipe", "small.yaml", "--output", "s.json", *share, "1.5")
    assert refused.code == 2
    assert "`share` must be between 0 and 1, both excluded, but is 1.5." in refused.err


def test_the_search_of_a_checkpoint_can_be_overruled(folder: Path) -> None:
    one_word = ["--model.search.max_len_a", "0", "--model.search.max_len_b", "1"]
    arguments = ["--config", "recipes/multi30k_en_de/fit.yaml", "--ckpt_path", CHECKPOINT]
    found = call("predict", *arguments, *TINY_TRAINER, *one_word)
    assert found.code == 0
    data = TranslationDataModule(DATA, "en", "de")
    for line in found.out.splitlines():
        assert len(data.tokenizer.encode(line)) <= 1


@pytest.mark.parametrize(
    "recipe", sorted(str(p.relative_to(RECIPES)) for p in RECIPES.glob("*/*.yaml"))
)
def test_every_recipe_is_read(recipe: str) -> None:
    """By the command that it is named after, or as a comparison, or laid over ``fit.yaml``."""
    path = RECIPES / recipe
    command = "compare" if "grid" in yaml.safe_load(path.read_text()) else path.stem
    if command not in cli.COMMANDS or cli.COMMANDS[command].run is None:
        layers = dict.fromkeys([path.with_name("fit.yaml"), path])
        built = recipe_cli([f"--config={layer}" for layer in layers], run=False)
        assert built.datamodule.folder.parts[0] == "data-bin"
        return
    parser = cli.command_parser(command)
    settings = parser.instantiate_classes(parser.parse_args([f"--config={path}"])).as_dict()
    settings.pop("config")
    if command == "compare":
        assert Path(Comparison(**settings).output).parts[0] == "runs"


# ----------------------------------------------------------------------------------- translate


def translate(stdin: bytes, *options: str) -> Done:
    return call("translate", "--checkpoint", CHECKPOINT, "--beam_size", "1", *options, stdin=stdin)


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"\n",
        b"the man sees a dog\n",
        b"the man sees a dog",
        b"\n\nthe man sees a dog\n\na dog sleeps",
        "Ümläute, \u2028 漢字 \x0b\x0c\x1c\x85 and a \r in the middle\r\nnext\r\n".encode(),
        b"a dog sleeps\n" * 70,
    ],
    ids=["nothing", "an empty line", "a line", "no newline", "gaps", "separators", "70 lines"],
)
def test_a_line_out_for_each_line_in(folder: Path, stdin: bytes) -> None:
    found = translate(stdin)
    assert found.code == 0, found.err
    lines = stdin.split(b"\n")
    if not lines[-1]:
        lines.pop()
    translations = found.out.split("\n")
    assert translations.pop() == ""
    assert [bool(t) for t in translations] == [bool(line.strip()) for line in lines]


def test_input_that_is_not_utf_8_is_refused_with_its_line(folder: Path) -> None:
    found = translate("a dog\nein schöner Hund\n".encode("latin-1"))
    assert found.code == 2
    assert found.err == (
        "admin-init translate: line 2 of the input is not UTF-8: byte 8, invalid start byte.\n"
    )


def test_the_neighbours_of_a_bad_line_are_translated(folder: Path) -> None:
    (expected,) = translate(b"a dog sleeps\n").out.splitlines()
    found = translate(b"a dog sleeps\n\xff\na dog sleeps\n")
    assert found.code == 2
    assert found.out.splitlines() == [expected, "", expected]
    assert found.err.startswith("admin-init translate: line 2 of the input is not UTF-8")
    long = b"a dog " * 1000
    for options, code, lines in (
        ((), 2, [expected]),
        (("--too-long", "skip"), 0, [expected, "", expected]),
        (("--too_long=skip",), 0, [expected, "", expected]),
    ):
        found = translate(b"a dog sleeps\n" + long + b"\na dog sleeps\n", *options)
        assert found.code == code
        assert found.out.splitlines() == lines
        (error,) = found.err.splitlines()
        assert error.startswith("admin-init translate: line 2 of the input has ")


def test_translating_without_standard_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as after `<&-`
    with pytest.raises(SystemExit, match="2"):
        cli.main(["translate", "--checkpoint", CHECKPOINT])
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("admin-init translate: standard input is closed")
    assert err.count("\n") == 1


def test_a_line_is_answered_before_the_next_is_sent(folder: Path) -> None:
    process = start(
        *("translate", "--checkpoint", CHECKPOINT, "--beam_size", "1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    expected = translate(b"a dog sleeps\n").out.encode()
    for line, answer in ((b"a dog sleeps\n", expected), (b"\n", b"\n")) * 2:
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == answer  # or the suite's timeout ends it
    process.stdin.close()
    assert process.stdout.read() == b""
    assert process.wait() == 0
    process.stdout.close()


def test_in_any_locale_and_until_the_reader_has_enough(folder: Path) -> None:
    process = start(
        *("translate", "--checkpoint", CHECKPOINT, "--beam_size", "1"),
        env={"LC_ALL": "C"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write("ein schöner dog\n".encode() * 200)
    process.stdin.close()
    expected = translate("ein schöner dog\n".encode()).out
    assert process.stdout.readline().decode() == expected
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()
