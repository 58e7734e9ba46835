"""What `admin-init prepare` costs on a large corpus: pairs per second and memory.

Makes a synthetic corpus (words of invented syllables in Zipf's proportions, about 16 a sentence),
prepares it once for each number of workers, and prints a JSON row for each. Memory is sampled 20
times a second, over the command and the processes it has started. The load is the machine's over
the last five minutes: it says how far the seconds can be trusted. With --kill the command is killed
with all its processes in the middle, repeated, and what it then writes is compared.

    python benchmarks/preparation.py --pairs 5000000 --workers 1 2 --folder /tmp/preparation --kill
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

LANGUAGES = {"en": 1, "de": 2}
DISTINCT_WORDS = 400_000
ONSETS = [*"bcdfghjklmnprstvwz", "br", "ch", "cl", "dr", "fr", "gr", "kl", "pr", "sch", "sp", "st"]
VOWELS = [*"aeiouäöü", "au", "ei", "ie"]
CODAS = ["", "n", "r", "s", "t"]
# What cleaning and normalizing is for: quotation marks, a compound, a tab, an empty line.
ODDITIES = {7: "„{}“", 11: "{}\u2019s well-known", 13: "{}\t\u200b", 9973: ""}
SUBWORDS = {
    "sentencepiece": ["--vocabulary_size", "32000"],
    "subword-nmt": [
        *("--subwords", "subword-nmt", "--merges", "32764", "--normalize", "true"),
        *("--aggressive_hyphens", "true", "--length_unit", "word"),
        *("--max_length", "80", "--max_ratio", "9"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--subwords", choices=SUBWORDS, default="sentencepiece")
    parser.add_argument("--folder", type=Path, required=True, help="for the corpus and the results")
    parser.add_argument("--kill", action="store_true", help="also kill and repeat")
    options = parser.parse_args()
    corpus = options.folder / f"corpus-{options.pairs}"
    if not corpus.exists():
        make_corpus(corpus, options.pairs)
    bytes_read = sum(path.stat().st_size for path in corpus.iterdir())
    outputs = []
    for workers in options.workers:
        destination = options.folder / f"workers-{workers}"
        shutil.rmtree(destination, ignore_errors=True)
        row = measure(command(corpus, destination, options.subwords, workers))
        outputs.append(digests(destination))
        report(
            options,
            workers=workers,
            **row,
            pairs_per_second=round(options.pairs / row["seconds"]),
            corpus_mib=bytes_read >> 20,
            same_output=outputs[0] == outputs[-1],
        )
    if options.kill:
        workers = options.workers[-1]
        destination = options.folder / "killed"
        shutil.rmtree(destination, ignore_errors=True)
        arguments = command(corpus, destination, options.subwords, workers)
        until = row["seconds"] / 2
        killed = measure(arguments, kill_after=until)
        left = len(list(destination.with_name(".killed.scratch").glob("shards/*")))
        row = measure(arguments)
        outputs.append(digests(destination))
        report(
            options,
            workers=workers,
            killed_after_seconds=killed["seconds"],
            files_left=left,
            **row,
            same_output=outputs[0] == outputs[-1],
        )


def make_corpus(folder: Path, pairs: int) -> None:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for lang, seed in LANGUAGES.items():
        words = vocabulary(seed)
        share = 1 / (np.arange(DISTINCT_WORDS) + 2.7)
        cumulative = np.cumsum(share / share.sum())
        for split, size, stream in (("train", pairs, 0), ("valid", 2000, 1), ("test", 2000, 2)):
            with open(part / f"{split}.{lang}", "w", encoding="utf-8") as file:
                for start in range(0, size, 50_000):
                    number = min(50_000, size - start)
                    rng = np.random.default_rng([stream, start])  # the lengths of both languages
                    lengths = rng.lognormal(2.7, 0.55, number).clip(1, 120)
                    rng = np.random.default_rng([stream, start, seed])
                    lengths = (lengths * rng.normal(1, 0.12, number)).astype(int).clip(1)
                    ranks = np.searchsorted(cumulative, rng.random(lengths.sum()))
                    file.writelines(sentences(words[ranks], lengths, start))
    part.rename(folder)


def vocabulary(seed: int) -> npt.NDArray[Any]:
    rng = np.random.default_rng(seed)
    syllables = [a + b + c for a in ONSETS for b in VOWELS for c in CODAS]
    words: dict[str, None] = {}
    while len(words) < DISTINCT_WORDS:
        drawn = rng.integers(0, len(syllables), 1 + rng.poisson(1.6))
        words["".join(syllables[i] for i in drawn)] = None
    # The frequent ones tend to be short.
    rank = np.array([len(word) for word in words]) + rng.exponential(6, len(words))
    return np.array(list(words), dtype=object)[np.argsort(rank, kind="stable")]


def sentences(words: npt.NDArray[Any], lengths: npt.NDArray[Any], start: int) -> list[str]:
    lines, begin = [], 0
    for number, length in enumerate(lengths.tolist(), start=start):
        text = " ".join(words[begin : begin + length])
        begin += length
        for every, form in ODDITIES.items():
            if number % every == every - 1:
                text = form.format(text)
        lines.append(f"{text}.\n" if text else "\n")
    return lines


def command(corpus: Path, destination: Path, subwords: str, workers: int) -> list[str]:
    return [
        *(sys.executable, "-c", "from admin_init.cli.main import main; main()", "prepare"),
        *("--corpus.kind", "files", "--corpus.folder", str(corpus)),
        *("--destination", str(destination), "--workers", str(workers), *SUBWORDS[subwords]),
    ]


def measure(arguments: list[str], kill_after: float | None = None) -> dict[str, Any]:
    """Run a command; return its time and the most memory that it took."""
    started, before = time.monotonic(), cpu_seconds()
    largest = together = 0
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        sizes = []
        try:
            for member in (tree, *tree.children(recursive=True)):
                sizes.append(member.memory_info().rss)
        except psutil.NoSuchProcess:
            pass
        largest, together = max([largest, *sizes]), max(together, sum(sizes))
        if kill_after is not None and time.monotonic() - started > kill_after:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.05)
    if process.returncode and kill_after is None:
        sys.exit(f"the command ended with {process.returncode}")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(cpu_seconds() - before, 1),
        "load": round(os.getloadavg()[1], 1),
        "peak_mib_of_a_process": largest >> 20,
        "peak_mib_of_all": together >> 20,
    }


def cpu_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def digests(destination: Path) -> dict[str, str]:
    found = {}
    for path in destination.iterdir():
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def report(options: argparse.Namespace, **row: Any) -> None:
    row = {
        "pairs": options.pairs,
        "subwords": options.subwords,
        **row,
        "versions": {name: version(name) for name in ("sentencepiece", "sacremoses", "torch")},
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
