"""Texts and values that nobody expects."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admin_init.errors import AdminInitError

# Control characters, what other people call the end of a line, a byte order mark, a joiner, the
# space of SentencePiece, a letter beyond the basic plane, and a combining mark.
SPECIAL = "\0\a\t\v\f\r\x1c\x85\xa0\u2028\u2029\ufeff\u200d\u2581\U0001f600\u0301 @#|\\\"'"
LINE = st.one_of(
    st.text(st.sampled_from(SPECIAL + "ab"), max_size=12),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=12),
    st.sampled_from(
        ["", " ", "<s>", "</s>", "<unk>", "<pad>", "madeupword0000", "a@@ b", "x " * 999]
    ),
)
BROKEN = st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80"])
VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 7, 10**20, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf")]),
    st.sampled_from(["", "many", "1", "-1", "\ud800", "x" * 999, "null", "NaN"]),
    st.sampled_from([[], {}, [[]], [1, "a", None], {"": {}}, {"a": [{}]}]),
)


def examine(check: Callable[[Any], None], inputs: st.SearchStrategy[Any], number: int) -> int:
    """Check so many inputs, always the same ones, and return how many there were."""
    count = 0

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def each(given_input: Any) -> None:
        nonlocal count
        count += 1
        check(given_input)

    each()
    return count


def attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """What comes of reading something, and what is said where it is refused.

    Any other exception than ours is a failure of the test.
    """
    try:
        return read(), ""
    except AdminInitError as error:
        return None, str(error)


def with_a_nasty_place(values: Any) -> st.SearchStrategy[Any]:
    """``values`` (as from JSON) with something else, or nothing, in one random place."""
    places = list(_places(values, ()))

    def put(place_and_value: Any) -> Any:
        place, (gone, value) = place_and_value
        return _replaced(values, place, gone, value)

    return st.tuples(st.sampled_from(places), st.tuples(st.booleans(), VALUE)).map(put)


def _places(values: Any, path: tuple[Any, ...]) -> Any:
    yield path
    items: Any = ()
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list):
        items = enumerate(values[:2])
    for key, value in items:
        yield from _places(value, (*path, key))


def _replaced(values: Any, path: tuple[Any, ...], gone: bool, value: Any) -> Any:
    if not path:
        return value
    copy = dict(values) if isinstance(values, dict) else list(values)
    if len(path) == 1 and gone:
        del copy[path[0]]
    else:
        copy[path[0]] = _replaced(values[path[0]], path[1:], gone, value)
    return copy


def fill(cells: Callable[..., None], what: str, number: int, outcomes: list[str]) -> None:
    """A row of the table: all that was tried came to one of these ends."""
    assert len(outcomes) == number
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    cells(
        "Faults",
        f"{what} that nobody expects",
        tried=number,
        survived=number,
        exit_code=2,
        message=", ".join(f"{outcome} {count}" for outcome, count in counts.items()),
    )
