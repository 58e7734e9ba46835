"""How the rule ``share`` settles, and how near its stream is to that of Pre-LN.

Encoders of admin_init at initialization, on a batch of the embedded corpus, in float64. For each
width, share and seed: the number of passes until no omega moves by 1e-6; the largest relative error
of an omega after a fixed number of passes; and the root mean square of the difference between the
output and that of a Pre-LN encoder with the same branches, whose input is scaled by the first
omega, where both read the embeddings as they are, and where both read them normalized.

    python benchmarks/share.py
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from collections.abc import Iterator
from itertools import islice, product
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import admin_init
from admin_init.adapters.computation.observation import observe_pass
from admin_init.lab.studies.bench import Bench
from admin_init.omega import OmegaRule
from admin_init.profiling.from_variances import omegas_of
from admin_init.rescale import installed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        for width, share, seed in product(options.widths, options.shares, options.seeds):
            bench = Bench(folder=folder, dim=width, ffn_dim=4 * width, dropout=0.0)
            row = {"width": width, "share": share, "seed": seed, "layers": options.layers}
            row |= measured(bench, options.layers, share, seed)
            row |= {"torch": torch.__version__, "machine": platform.machine()}
            print(json.dumps(row), flush=True)


def measured(bench: Bench, layers: int, share: float, seed: int) -> dict[str, Any]:
    post = bench.stack("post", layers, seed, "encoder")
    pre = bench.stack("pre", layers, seed, "encoder").model.double().stack
    post.model.double()
    with torch.no_grad():
        embedded = post.model.embedding(post.tokens)
    stack = post.model.stack
    pre.load_state_dict(stack.state_dict(), strict=False)  # the branches have the same names
    settled = [site.omega for site in profile(stack, embedded, post.padding, share).sites]
    errors = [
        max(abs(omega / right - 1) for omega, right in zip(omegas, settled, strict=True))
        for omegas in islice(by_pass(stack, embedded, post.padding, share), 12)
    ]
    moves = next(i for i, error in enumerate(errors) if error < 1e-6) + 1
    found = {"passes": moves, "error after passes": [float(f"{e:.1e}") for e in errors[:8]]}
    for name, x in (("as it is", embedded), ("normalized", normalized(embedded))):
        found[f"distance from Pre-LN, input {name}"] = round(
            distance(stack, pre, x, post.padding, share), 3
        )
    return found


def profile(stack: nn.Module, x: Tensor, padding: Tensor, share: float) -> admin_init.AdminProfile:
    return admin_init.profile(stack, [(x, padding)], rule="share", share=share)


def by_pass(stack: nn.Module, x: Tensor, padding: Tensor, share: float) -> Iterator[list[float]]:
    """Yield the omegas after each pass, without end."""
    rule = OmegaRule("share", share)
    sites = admin_init.find_sites(stack)
    omegas: dict[str, float] = {}
    while True:
        with installed(sites):
            seen = observe_pass(stack, sites, lambda: stack(x, padding), rule=rule, omegas=omegas)
            omegas, _ = omegas_of(seen.variances(sites), rule)
        yield list(omegas.values())


@torch.no_grad()
def distance(stack: nn.Module, pre: nn.Module, x: Tensor, padding: Tensor, share: float) -> float:
    found = profile(stack, x, padding, share)
    output = admin_init.apply_(copy.deepcopy(stack), found)(x, padding)
    stream = pre(found.sites[0].omega * x, padding)
    kept = ~padding
    return (output - stream)[kept].square().mean().sqrt().item()


def normalized(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


if __name__ == "__main__":
    main()
