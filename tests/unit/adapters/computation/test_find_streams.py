"""Pre-LN streams: their sums, and where their input can be scaled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from _helpers.native_models import build as build_native
from _helpers.plain_models import MODELS as POST_LN
from _helpers.plain_post_ln import D, Stack, SubLayer
from _helpers.pre_ln_models import MODELS, build
from torch import Tensor, nn

from admin_init import UnsupportedModelError
from admin_init._utils.isolation import trial_pass, whole_pass
from admin_init.adapters.computation.graph import ForwardGraph, Value
from admin_init.adapters.computation.stream_starts import running_streams, stream_sites
from admin_init.adapters.computation.streams import find_streams
from admin_init.adapters.discovery import call_model
from admin_init.adapters.stream_form import StreamSite


def graph_of(model: nn.Module, batch: Any, before_operation: Any = None) -> ForwardGraph:
    graph = ForwardGraph(model, before_operation)
    with trial_pass(model), whole_pass(model), torch.no_grad(), graph:
        call_model(model, batch)
    return graph


def sites_of(model: nn.Module, batch: Any) -> list[StreamSite]:
    return stream_sites(model, graph_of(model, batch))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_streams_and_their_starts(name: str, train: bool) -> None:
    model, batch, expected = build(name).train(train), MODELS[name].batch, MODELS[name].streams
    graph = graph_of(model, batch)
    assert [len(stream.residuals) for stream in find_streams(graph)] == [
        s.residuals for s in expected
    ]
    sites = stream_sites(model, graph)
    assert [(s.name, s.stack, s.place.start) for s in sites] == [
        (start.name, start.stack, start.form) for start in expected
    ]
    assert all(site.computed and site.previous is None and site.norm is None for site in sites)
    assert [site.width for site in sites] == [16] * len(sites)
    assert [site.computed_fold_problem is None for site in sites] == [MODELS[name].folds] * len(
        sites
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_sums_of_a_running_pass(name: str) -> None:
    model, batch = build(name).train(), MODELS[name].batch
    before = sites_of(model, batch)
    for site in before:
        site.install_()
    seen: list[tuple[StreamSite, int]] = []

    def see(op: str, tensors: list[Tensor], inputs: list[Value], constants: Any) -> None:
        if (found := sums.terms(op, inputs)) is not None:
            seen.append((found[0], len(graph.values)))

    graph = ForwardGraph(model, see)
    sums = running_streams(graph, before)
    with trial_pass(model), whole_pass(model), torch.no_grad(), graph:
        call_model(model, batch)
    assert Counter(site.name for site, _ in seen) == {
        start.name: start.residuals for start in MODELS[name].streams
    }
    streams = find_streams(graph)
    assert sorted(index for _, index in seen) == sorted(
        residual.sum.index for stream in streams for residual in stream.residuals
    )
    # A model with omegas has the same sites.
    assert [s.record() for s in stream_sites(model, graph)] == [s.record() for s in before]


@pytest.mark.parametrize("name", POST_LN)
def test_a_post_ln_model_has_no_stream(name: str) -> None:
    model, batch = POST_LN[name][0]()
    assert find_streams(graph_of(model, batch)) == []


def test_our_post_ln_transformer_has_no_stream() -> None:
    ids = torch.arange(3, 15).view(2, 6)
    assert find_streams(graph_of(build_native("post"), (ids, ids))) == []


class PreLN(SubLayer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(self.norm(x))
        return y


class Model(nn.Module):
    """An embedding, one or two stacks, and a final norm; subclasses connect them in other ways."""

    def __init__(self, layer: type[SubLayer] = PreLN) -> None:
        super().__init__()
        self.embedding, self.final = nn.Linear(D, D), nn.LayerNorm(D)
        self.stack, self.other = Stack(layer), Stack(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.final(self.stack(self.embedding(x)))
        return y


def test_a_last_sum_whose_branch_has_no_norm_belongs_to_the_stream(x: Tensor) -> None:
    class Adapted(Model):
        def forward(self, x: Tensor) -> Tensor:
            y = self.stack(self.embedding(x))
            z: Tensor = self.final(y + self.other.layers[0].branch(y))
            return z

    (stream,) = find_streams(graph_of(Adapted(), x))
    assert [residual.kind for residual in stream.residuals] == ["Pre-LN"] * 3 + ["Post-LN"]


def test_streams_of_one_input_are_scaled_each_in_its_first_layer(x: Tensor) -> None:
    class Siamese(Model):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embedding(x)
            y: Tensor = self.final(self.stack(x)) + self.final(self.other(x))
            return y

    model = Siamese()
    sites = sites_of(model, x)
    assert [(site.name, site.place.start) for site in sites] == [
        ("stack.layers.0", "input"),
        ("other.layers.0", "input"),
    ]
    assert [site.stack for site in sites] == ["stack", "other"]
    assert {site.computed_fold_problem for site in sites} == {"its input is also read elsewhere"}
    lengths = [len(stream.residuals) for stream in find_streams(graph_of(model, x))]
    assert lengths == [3, 2]


def test_a_post_ln_stack_with_the_same_input_is_no_part_of_the_stream(x: Tensor) -> None:
    class Both(Model):
        def __init__(self) -> None:
            super().__init__()
            self.other = Stack(SubLayer, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embedding(x)
            y: Tensor = self.final(self.stack(x)) + self.other(x)
            return y

    (stream,) = find_streams(graph_of(Both(), x))
    assert [residual.kind for residual in stream.residuals] == ["Pre-LN"] * 3


def test_an_input_by_name_is_found(x: Tensor) -> None:
    class Named(PreLN):
        def forward(self, mask: Any = None, *, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)

    class Summed(Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = Named()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.final(self.stack(self.first(None, x=x + self.embedding(x))))
            return y

    (site,) = sites_of(Summed(), x)
    assert (site.name, site.place.start, site.place.leaf) == ("first", "input", 1)


class OneForBoth(Model):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(D, 2 * D), Halves())

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.embedding(x)
        y: Tensor = self.final(self.stack(a)) + self.final(self.other(b))
        return y


class Halves(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[..., :D] * 1, x[..., D:] * 1


class Unrolled(Model):
    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) + 1
        for layer in self.stack.layers:
            assert isinstance(layer, PreLN)
            x = x + layer.branch(layer.norm(x))
        y: Tensor = self.final(x)
        return y


class Repeated(Model):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.final(self.stack(self.embedding(self.embedding(x))))
        return y


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (OneForBoth, r"`embedding`: it would scale the inputs of several streams"),
        (Unrolled, r"`stack.layers.0.norm`: no module returns its input to it alone"),
    ],
)
def test_an_input_that_cannot_be_scaled_is_refused(
    kind: type[Model], reason: str, x: Tensor
) -> None:
    model = kind()
    with pytest.raises(UnsupportedModelError, match=reason):
        sites_of(model, x)
    assert stream_sites(model, graph_of(model, x), exclude=["embedding", "stack"]) == []


def test_an_embedding_that_runs_twice_is_refused(x: Tensor) -> None:
    class Twice(Unrolled):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embedding(self.embedding(x))
            for layer in self.stack.layers:
                assert isinstance(layer, PreLN)
                x = x + layer.branch(layer.norm(x))
            y: Tensor = self.final(x)
            return y

    with pytest.raises(UnsupportedModelError, match="an output of a Linear that runs 2 times"):
        sites_of(Twice(), x)
    # Its output is the argument of a layer that runs once.
    (site,) = sites_of(Repeated(), x)
    assert (site.name, site.place.start) == ("stack.layers.0", "input")


def test_a_deep_chain_of_sums_without_norms(x: Tensor) -> None:
    class Normed(PreLN):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = x + self.norm(self.inner(x)[..., :D])
            return y

    model = nn.Sequential(Stack(Normed, 600), Stack(PreLN), nn.LayerNorm(D))
    (stream,) = find_streams(graph_of(model, x))
    assert len(stream.residuals) == 3


def test_the_sums_of_a_deep_stream_are_told_in_time(x: Tensor) -> None:
    counts: Counter[str] = Counter()
    model = nn.Sequential(nn.Linear(D, D), Stack(PreLN, 600), nn.LayerNorm(D))
    (site,) = sites_of(model, x)
    site.install_()

    def see(op: str, tensors: list[Tensor], inputs: list[Value], constants: Any) -> None:
        if (found := sums.terms(op, inputs)) is not None:
            counts[found[0].name] += 1

    graph = ForwardGraph(model, see)
    sums = running_streams(graph, [site])
    with graph:
        model(x)
    assert counts == {"0": 600}
