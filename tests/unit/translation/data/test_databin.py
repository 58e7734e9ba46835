import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from admin_init.errors import CorpusError
from admin_init.translation.data.databin import IndexedDataset, IndexedDatasetBuilder, JoinedDataset

SENTENCES = [[4, 5, 2], [2], [65_499, 2]]


def bytes_of_fairseq(code: int, letter: str, width: int) -> tuple[bytes, bytes]:
    """The two files of SENTENCES, from the definition of fairseq's MMapIndexedDataset."""
    data = struct.pack(f"<6{letter}", 4, 5, 2, 2, 65_499, 2)
    index = b"MMIDIDX\x00\x00"
    index += struct.pack("<Q", 1)
    index += struct.pack("<B", code)
    index += struct.pack("<Q", 3)
    index += struct.pack("<3i", 3, 1, 2)
    index += struct.pack("<3q", 0, 3 * width, 4 * width)
    return data, index


def put(folder: Path, data: bytes, index: bytes) -> Path:
    (folder / "train.en-de.en.bin").write_bytes(data)
    (folder / "train.en-de.en.idx").write_bytes(index)
    return folder / "train.en-de.en"


@pytest.mark.parametrize(
    ("code", "letter", "width"),
    [(4, "i", 4), (5, "q", 8), (8, "H", 2), (9, "I", 4), (10, "Q", 8)],
)
def test_reads_the_bytes_of_fairseq(tmp_path: Path, code: int, letter: str, width: int) -> None:
    dataset = IndexedDataset(put(tmp_path, *bytes_of_fairseq(code, letter, width)))
    assert [sentence.tolist() for sentence in dataset] == SENTENCES
    assert all(dataset[i].dtype == torch.int64 for i in range(3))
    assert dataset.sizes.tolist() == [3, 1, 2]
    assert dataset[-1].tolist() == SENTENCES[-1]
    assert dataset.number_of_tokens == 6


@pytest.mark.parametrize(("size", "layout"), [(65_499, "uint16"), (65_500, "uint32")])
def test_writes_the_bytes_of_fairseq(tmp_path: Path, size: int, layout: str) -> None:
    sentences = [[4, 5, 2], [2], [65_498, 2]]
    with IndexedDatasetBuilder(tmp_path / "ours", size) as builder:
        builder.extend(np.concatenate(sentences), np.array([*map(len, sentences)]))
    code, letter, width = (8, "H", 2) if layout == "uint16" else (9, "I", 4)
    _, index = bytes_of_fairseq(code, letter, width)
    assert (tmp_path / "ours.idx").read_bytes() == index
    data = struct.pack(f"<6{letter}", 4, 5, 2, 2, 65_498, 2)
    assert (tmp_path / "ours.bin").read_bytes() == data
    assert {path.name for path in tmp_path.iterdir()} == {"ours.bin", "ours.idx"}


def test_many_sentences_at_once_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    ids, sizes = np.array([4, 5, 2, 2, 6, 2], np.uint8), np.array([3, 1, 2], np.int32)
    with IndexedDatasetBuilder(tmp_path / "many", 10) as builder:
        builder.extend(ids[:4], sizes[:2])
        builder.extend(ids[4:], sizes[2:])
        builder.extend(ids[:0], sizes[:0])
    with IndexedDatasetBuilder(tmp_path / "single", 10) as builder:
        for sentence in ([4, 5, 2], [2], [6, 2]):
            builder.extend(np.array(sentence), np.array([len(sentence)]))
    for ending in ("bin", "idx"):
        many, single = (tmp_path / f"{name}.{ending}" for name in ("many", "single"))
        assert many.read_bytes() == single.read_bytes()


def test_sizes_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(tmp_path / "x", 10)
    with pytest.raises(ValueError, match=r"to the 3 ids .* add up to 2"), builder:
        builder.extend(np.array([4, 5, 2]), np.array([2], np.int32))
    assert not list(tmp_path.iterdir())


def test_an_empty_data_bin(tmp_path: Path) -> None:
    with IndexedDatasetBuilder(tmp_path / "none", 10):
        pass
    dataset = IndexedDataset(tmp_path / "none")
    assert len(dataset) == dataset.number_of_tokens == 0


def raise_after_writing(builder: IndexedDatasetBuilder, path: Path) -> None:
    builder.extend(np.array([4, 2]), np.array([2]))
    assert not path.exists()
    raise KeyboardInterrupt


def test_an_interrupted_builder_leaves_nothing(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(tmp_path / "x", 10)
    with pytest.raises(KeyboardInterrupt), builder:
        raise_after_writing(builder, tmp_path / "x.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ids", [[10], [-1]])
def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path, ids: list[int]) -> None:
    builder = IndexedDatasetBuilder(tmp_path / "x", 10)
    with pytest.raises(ValueError, match=r"`ids` must be in \[0, 10\)"), builder:
        builder.extend(np.array(ids), np.array([1]))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    dataset = IndexedDataset(put(tmp_path, *bytes_of_fairseq(8, "H", 2)))
    for index in (3, -4):
        with pytest.raises(IndexError, match="has 3 sentences"):
            dataset[index]
    with pytest.raises(CorpusError, match=r"nowhere cannot be read.*nowhere\.idx"):
        IndexedDataset(tmp_path / "nowhere")


def test_an_id_that_the_dictionary_does_not_have_is_refused(tmp_path: Path) -> None:
    prefix = put(tmp_path, *bytes_of_fairseq(8, "H", 2))
    assert len(list(IndexedDataset(prefix, 65_500))) == 3
    dataset = pickle.loads(pickle.dumps(IndexedDataset(prefix, 65_499)))
    assert dataset[0].tolist() == SENTENCES[0]
    with pytest.raises(CorpusError, match=r"sentence 2 has ids from 2 to 65499, .* has 65,499"):
        dataset[2]


def test_the_checksum_is_of_ids_and_sizes(tmp_path: Path) -> None:
    for name, sentences in {"a": [[4, 2], [2]], "b": [[4], [2, 2]], "c": [[5, 2], [2]]}.items():
        with IndexedDatasetBuilder(tmp_path / name, 10) as builder:
            builder.extend(np.concatenate(sentences), np.array([*map(len, sentences)]))
    checksums = {IndexedDataset(tmp_path / name).checksum for name in "abc"}
    assert len(checksums) == 3
    assert IndexedDataset(tmp_path / "a").checksum in checksums


def test_pickling_does_not_copy_the_data(tmp_path: Path) -> None:
    with IndexedDatasetBuilder(tmp_path / "big", 100) as builder:
        builder.extend(np.full(50_000, 7), np.full(1000, 50))
    pickled = pickle.dumps(IndexedDataset(tmp_path / "big"))
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled)[999], [7] * 50)


DATA, INDEX = bytes_of_fairseq(8, "H", 2)


@pytest.mark.parametrize(
    ("data", "index", "message"),
    [
        (DATA[:-1], INDEX, r"de\.en\.bin holds 11 bytes, but its index .*en\.idx needs 12"),
        (DATA + b"\0\0", INDEX, r"de\.en\.bin holds 14 bytes"),
        (DATA, b"TNTIDX\x00\x00" + INDEX[8:], r"de\.en\.idx is not the index.*TNTIDX"),
        (DATA, INDEX[:20], r"de\.en\.idx is not the index"),
        (DATA, INDEX[:-1], r"de\.en\.idx holds 61 bytes, but the index of 3 sentences has 62"),
        (DATA, INDEX[:9] + b"\x02" + INDEX[10:], "version 2"),
        (DATA, INDEX[:17] + b"\x06" + INDEX[18:], "type code 6"),
        (DATA, INDEX[:26] + struct.pack("<3i", 2, 2, 2) + INDEX[38:], "positions of its"),
        (DATA, INDEX[:26] + struct.pack("<3i", 3, -1, 2) + INDEX[38:], "positions of its"),
    ],
)
def test_files_that_do_not_match_are_refused(
    tmp_path: Path, data: bytes, index: bytes, message: str
) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        IndexedDataset(put(tmp_path, data, index))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("sentence", [65_535, 65_536, 69_999])
def test_damage_far_behind_the_beginning_is_found(tmp_path: Path, sentence: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 4, size=70_000).astype(np.int32)
    with IndexedDatasetBuilder(tmp_path / "long", 70_000) as builder:
        builder.extend(np.arange(70_000).repeat(sizes), sizes)
    assert set(IndexedDataset(tmp_path / "long")[sentence].tolist()) == {sentence}
    index = bytearray((tmp_path / "long.idx").read_bytes())
    index[26 + 4 * 70_000 + 8 * sentence] ^= 4
    (tmp_path / "long.idx").write_bytes(index)
    with pytest.raises(CorpusError, match="positions of its"):
        IndexedDataset(tmp_path / "long")


def test_an_index_that_ends_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = put(tmp_path, DATA, INDEX[:-8])
    monkeypatch.setattr("os.fstat", lambda number: SimpleNamespace(st_size=len(INDEX)))
    with pytest.raises(CorpusError, match=r"cannot be read.*de\.en\.idx"):
        IndexedDataset(prefix)


def test_joined_data_bins_are_one(tmp_path: Path) -> None:
    parts, expected = [], []
    for number, sentences in enumerate(([[5, 2], [6, 7, 2]], [], [[8, 2]])):
        with IndexedDatasetBuilder(tmp_path / f"part{number}", 9) as builder:
            for ids in sentences:
                builder.extend(np.array(ids), np.array([len(ids)]))
        parts.append(IndexedDataset(tmp_path / f"part{number}", 9))
        expected += sentences
    joined = JoinedDataset(parts)
    assert [joined[i].tolist() for i in range(len(joined))] == expected
    assert joined.sizes.tolist() == [2, 3, 2]
    again = pickle.loads(pickle.dumps(joined))
    assert again.checksum == joined.checksum != JoinedDataset(parts[::-1]).checksum
    for index in (3, -1):
        with pytest.raises(IndexError, match="3 sentences"):
            joined[index]
