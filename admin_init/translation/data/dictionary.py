"""fairseq's dictionaries (``dict.<language>.txt``), read and written without fairseq."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import count as counter
from os import PathLike
from pathlib import Path
from typing import Self

from admin_init._utils.atomic_files import write_text
from admin_init.errors import CorpusError

_OVERWRITE = " #fairseq:overwrite"


class Dictionary:
    """The tokens of a vocabulary and their ids, like ``fairseq.data.Dictionary``.

    The special tokens have fairseq's ids: ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3. The file
    does not list them; its first line has id 4.

    Examples:
        >>> dictionary = Dictionary.from_counts({"a": 5, "house": 2})
        >>> dictionary.encode(["a", "red", "house"])
        [4, 3, 5, 2]
        >>> dictionary.decode([4, 3, 5, 2])
        ['a', '<unk>', 'house']
    """

    bos, pad, eos, unk = range(4)

    def __init__(self) -> None:
        self._tokens = ["<s>", "<pad>", "</s>", "<unk>"]
        self._counts = [1, 1, 1, 1]
        self._ids = {token: i for i, token in enumerate(self._tokens)}

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], *, padding_factor: int = 8) -> Self:
        """Build the dictionary that ``fairseq-preprocess`` builds from the same counts.

        Args:
            counts: Number of occurrences of each token.
            padding_factor: The size is padded to a multiple of this number with the tokens
                ``madeupword0000``, ``madeupword0001``, ...

        Returns:
            The dictionary, sorted by falling count and then by code point.
        """
        dictionary = cls()
        for token, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            # If a corpus contains a special token as text, fairseq keeps its special id.
            if token not in dictionary:
                dictionary._append(token, count)
        for i in counter():
            if len(dictionary) % padding_factor == 0:
                break
            if (filler := f"madeupword{i:04d}") not in dictionary:
                dictionary._append(filler, 0)
        return dictionary

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a file ``dict.<language>.txt`` with one ``token count`` per line.

        As in fairseq, a line that ends in ``#fairseq:overwrite`` may repeat an earlier token, which
        then gets the later id.

        Raises:
            CorpusError: The file is missing or not UTF-8, or a line is malformed or repeats a
                token.
        """
        dictionary = cls()
        try:
            lines = Path(path).read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"The dictionary {path} cannot be read: {error}.") from error
        for number, line in enumerate(lines, start=1):
            entry = line.rstrip()
            overwrite = entry.endswith(_OVERWRITE)
            token, _, count = entry.removesuffix(_OVERWRITE).rpartition(" ")
            # Python refuses to parse longer numbers.
            if not token or not count.isdecimal() or len(count) > 4300:
                raise CorpusError(
                    f"{path}, line {number}: expected '<token> <count>', but found {line!r}."
                )
            if token in dictionary and not overwrite:
                raise CorpusError(
                    f"{path}, line {number}: the token {token!r} already has id "
                    f"{dictionary.index(token)}. Remove one of the two lines, or end this line "
                    f"with '{_OVERWRITE.strip()}' to give the token the later id."
                )
            dictionary._append(token, int(count))
        return dictionary

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file that :meth:`load` and fairseq read."""
        entries = zip(self._tokens[4:], self._counts[4:], strict=True)
        text = "".join(f"{token} {count}\n" for token, count in entries)
        write_text(path, text)

    def index(self, token: str) -> int:
        """Return the id of a token, or the id of ``<unk>`` if the token is unknown."""
        return self._ids.get(token, self.unk)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of a sentence's tokens, followed by ``</s>``."""
        return [*map(self.index, tokens), self.eos]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of the ids, without ``<s>``, ``<pad>`` and ``</s>``."""
        unseen = (self.bos, self.pad, self.eos)
        return [self[int(i)] for i in ids if int(i) not in unseen]

    def __getitem__(self, index: int) -> str:
        return self._tokens[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def __len__(self) -> int:
        return len(self._tokens)

    def _append(self, token: str, count: int) -> None:
        self._ids[token] = len(self._tokens)
        self._tokens.append(token)
        self._counts.append(count)
