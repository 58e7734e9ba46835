import math

import pytest

from admin_init.omega import closed_form, omega_from_variances

BRANCH = [2.0, 3.0, 4.0]


def test_reference_rule_builds_on_the_variance_of_the_scaled_shortcut() -> None:
    omegas = omega_from_variances(BRANCH, shortcut=[0.5, 1.0, 1.5])
    assert omegas == pytest.approx([1, math.sqrt(0.5 + 2), math.sqrt(2.5 * 1.0 + 3)])


def test_reference_rule_takes_normalised_shortcuts_where_none_are_given() -> None:
    assert omega_from_variances(BRANCH, rule="reference") == pytest.approx(
        [1, math.sqrt(1 + 2), math.sqrt(1 + 2 + 3)]
    )


def test_paper_rule_adds_up_the_branches_before() -> None:
    omegas = omega_from_variances(BRANCH, shortcut=[0.5, 1.0, 1.5], rule="paper")
    assert omegas == pytest.approx([1, math.sqrt(2), math.sqrt(2 + 3)])


def test_share_rule_gives_the_input_its_share() -> None:
    omegas = omega_from_variances(BRANCH, shortcut=[0.25, 1.0, 1.0], rule="share", share=0.75)
    scaled = 0.75 / (1 - 0.75) * (2 + 3 + 4)
    assert omegas == pytest.approx(
        [math.sqrt(scaled / 0.25), math.sqrt(scaled + 2), math.sqrt(scaled + 2 + 3)]
    )
    assert scaled / (scaled + sum(BRANCH)) == pytest.approx(0.75)


def test_share_rule_takes_a_half_where_no_share_is_given() -> None:
    half = omega_from_variances(BRANCH, rule="share", share=0.5)
    assert omega_from_variances(BRANCH, rule="share") == half


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 2.0, math.nan, math.inf])
def test_a_share_outside_of_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"`share` must be between 0 and 1, both excluded, but is"):
        omega_from_variances(BRANCH, rule="share", share=share)


def test_a_share_for_another_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`rule=\"share\"`, but `rule` is 'paper'. Leave one"):
        omega_from_variances(BRANCH, rule="paper", share=0.5)


def test_a_constant_input_has_no_share() -> None:
    with pytest.raises(ValueError, match=r"must have a positive variance .* begins with 0.0"):
        omega_from_variances(BRANCH, shortcut=[0.0, 1.0, 1.0], rule="share")


@pytest.mark.parametrize("sublayers", [1, 2, 12, 200])
def test_closed_forms_are_the_same_for_all_sublayers_whatever_their_variance(
    sublayers: int,
) -> None:
    branch = [float(i) for i in range(sublayers)]
    log = math.sqrt((sublayers + 1) / math.log(sublayers + 1) - 1)
    assert omega_from_variances(branch, rule="log") == pytest.approx([log] * sublayers)
    constant = omega_from_variances(branch, rule="constant")
    assert constant == pytest.approx([math.sqrt(sublayers)] * sublayers)


@pytest.mark.parametrize(("sublayers", "published"), [(2 * 100, 6.07), (3 * 100, 7.19)])
def test_log_form_of_a_hundred_layers(sublayers: int, published: float) -> None:
    # admin-torch 0.1.0 for 100-100 layers: two sub-layers an encoder layer, three a decoder layer.
    assert closed_form(sublayers) == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize("rule", ["reference", "paper", "log", "constant", "share"])
def test_a_stack_of_one_and_of_none(rule: str) -> None:
    assert len(omega_from_variances([0.7], rule=rule)) == 1  # type: ignore[arg-type]
    assert omega_from_variances([], rule=rule) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["reference", "paper"])
def test_the_first_omega_is_one(rule: str) -> None:
    assert omega_from_variances(BRANCH, rule=rule)[0] == 1  # type: ignore[arg-type]


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"paper, log, constant, share, but is 'linear'"):
        omega_from_variances(BRANCH, rule="linear")  # type: ignore[arg-type]


def test_shortcuts_must_match_the_branches() -> None:
    with pytest.raises(ValueError, match=r"one variance per sub-layer \(3\), but has 1"):
        omega_from_variances(BRANCH, shortcut=[1.0])
