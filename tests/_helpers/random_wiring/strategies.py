"""Hypothesis strategies for random modules."""

from __future__ import annotations

from hypothesis import strategies as st

from _helpers.random_wiring.model import Again, Sides, Stage, Step, UNet, Wiring
from _helpers.random_wiring.parts import BRANCHES, FUNCTIONS, NORMS
from _helpers.random_wiring.sub_layer import SUMS, SubLayer


@st.composite
def sub_layers(draw: st.DrawFn) -> SubLayer:
    def rarely(of: int = 12) -> bool:
        return draw(st.integers(1, of)) == of

    tapped = rarely()
    form = draw(st.sampled_from(["post"] * 6 + ["pre", "none", "sandwich", "inside", "post, pre"]))
    return SubLayer(
        branch=draw(st.sampled_from(sorted(BRANCHES))),
        dropout=draw(st.sampled_from(["none", "function", "module", "shared"])),
        sum=draw(st.sampled_from([form for form in SUMS if not (tapped and form == "f += x")])),
        norm=draw(st.sampled_from([*NORMS, *FUNCTIONS])),
        before=form in ("pre", "sandwich", "post, pre"),
        inside=form in ("sandwich", "inside") or rarely(),
        after=form in ("post", "post, pre"),
        tapped=tapped,
        gain=rarely(4),
        branch_of=draw(st.integers(0, 3)) if rarely(5) else None,
    )


some = st.lists(sub_layers(), min_size=1, max_size=2).map(tuple)
steps = st.builds(
    Step,
    st.sampled_from(["positions", "scale", "dropout", "linear", "norm", "norm", "keep", "keep"]),
    st.sampled_from([*NORMS, *FUNCTIONS]),
)
joins = {
    "sides": st.sampled_from(["add", "multiply", "concatenate"]),
    "unet": st.sampled_from(["add", "concatenate"]),
}


@st.composite
def wirings(draw: st.DrawFn) -> Wiring:
    stages: list[Stage] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["sub"] * 8 + ["step"] * 3 + ["again", "sides", "unet"]))
        match kind:
            case "sub":
                stages.append(draw(sub_layers()))
            case "step":
                stages.append(draw(steps))
            case "again":
                stages.append(Again(draw(st.integers(0, 3))))
            case "sides":
                stages.append(Sides(draw(some), draw(some), draw(joins["sides"])))
            case "unet":
                stages.append(UNet(draw(some), draw(joins["unet"])))
                if draw(st.booleans()):
                    stages.append(Step("norm", draw(st.sampled_from([*NORMS, *FUNCTIONS]))))
    return Wiring(
        tuple(stages),
        draw(st.sampled_from(["floats", "ids", "ids, norm"])),
        draw(st.sampled_from(["tensor", "tuple", "dict", "dataclass"])),
    )
