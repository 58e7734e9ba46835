"""Rules that drop training pairs."""

from collections.abc import Sequence

from admin_init.translation.preparation.config import PrepareConfig

_LONGEST_WORD = 1000


def drop_reason(
    source: Sequence[str], target: Sequence[str], config: PrepareConfig | None = None
) -> str | None:
    """Return why a training pair is dropped, by the rules of Moses' ``clean-corpus-n.perl``.

    Args:
        source: The words or subwords of the source.
        target: The words or subwords of the target.
        config: The bounds; None to drop empty pairs only.

    Returns:
        The reason in words; None if the pair is kept.

    Examples:
        >>> drop_reason(["a", "house"], [])
        'empty'
        >>> drop_reason(["a"] * 4, ["b"], PrepareConfig(max_ratio=3.0))
        'longer than 3.0 times its translation'
    """
    shorter, longer = sorted((len(source), len(target)))
    if not shorter:
        return "empty"
    if config is None:
        return None
    if longer > config.max_length:
        return f"longer than {config.max_length} {config.length_unit}s"
    if shorter < config.min_length:
        return f"shorter than {config.min_length} {config.length_unit}s"
    return _unequal_or_junk(source, target, config)


def _unequal_or_junk(
    source: Sequence[str], target: Sequence[str], config: PrepareConfig
) -> str | None:
    shorter, longer = sorted((len(source), len(target)))
    if config.max_ratio is not None and longer / shorter > config.max_ratio:
        return f"longer than {config.max_ratio} times its translation"
    if any(len(word) > _LONGEST_WORD for side in (source, target) for word in side):
        return f"having a word of more than {_LONGEST_WORD:,} characters"
    return None
