"""Reading a store: every sample, in an order that the key and the epoch alone decide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcake.core.errors import StoreError
from onnxcake.core.rng import Key
from onnxcake.store.dataset import StoreDataset
from onnxcake.store.shard import Batch
from onnxcake.store.store import Layout, Store

BATCH, SHAPE, CLASSES = 4, (2, 3), 3
MAPPED = 0  # resident bytes: nothing is held


def made(folder: Path, batches: int = 5, held_out: int = 2, per_shard: int = 2) -> Store:
    """A store whose every number says which sample it belongs to."""
    layout = Layout("k", {}, batches, held_out, per_shard, BATCH, SHAPE, CLASSES)
    store = Store.create(folder, layout)
    for index in list(store.missing()):
        rows = torch.arange(index * BATCH, (index + 1) * BATCH)
        inputs = rows.float().reshape(-1, 1, 1) + torch.arange(6).reshape(SHAPE) / 10
        logits = rows.float().reshape(-1, 1) + torch.arange(CLASSES) * 100
        store.append(Batch(index, inputs, logits, rows))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("store"))


def datasets(store: Store, held_out: bool = False) -> list[StoreDataset]:
    return [StoreDataset(store, held_out=held_out, resident_bytes=limit) for limit in (1 << 30, MAPPED)]


@pytest.mark.parametrize(("held_out", "rows"), [(False, range(20)), (True, range(20, 28))])
def test_rows_are_the_batches_one_after_the_other(held_out: bool, rows: range, store: Store) -> None:
    for data in datasets(store, held_out):
        assert len(data) == data.samples == len(rows)
        for place, row in enumerate(rows):
            inputs, logits, label = data[place]
            assert label.item() == row
            torch.testing.assert_close(inputs, row + torch.arange(6).reshape(SHAPE) / 10)
            torch.testing.assert_close(logits, row + torch.arange(CLASSES) * 100.0)


@pytest.mark.parametrize("per_shard", [1, 2, 3, 4, 7, 50])
def test_however_the_batches_lie_in_shards(per_shard: int, tmp_path: Path) -> None:
    """With three batches a shard, the second shard holds two to learn from and one held out."""
    store = made(tmp_path, per_shard=per_shard)
    for held_out, first, count in ((False, 0, 20), (True, 20, 8)):
        for data in datasets(store, held_out):
            inputs, logits, labels = data.take(list(range(count)))
            assert labels.tolist() == list(range(first, first + count))
            assert inputs[:, 0, 0].tolist() == logits[:, 0].tolist() == labels.tolist()


def test_a_resident_set_leaves_no_file_mapped(tmp_path: Path) -> None:
    """Or the set would be in memory twice, and a larger one could not be read at all."""
    store = made(tmp_path)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("what is mapped is asked of Linux")

    def mapped() -> bool:
        return str(tmp_path) in maps.read_text(encoding="utf-8")

    data = StoreDataset(store)
    assert len(data.take([0, 5])[0]) == 2 and not mapped()
    lying = StoreDataset(store, resident_bytes=MAPPED)
    assert len(lying.take([0, 5])[0]) == 2 and mapped()


def test_a_shard_that_vanishes_is_an_error_that_says_which(tmp_path: Path) -> None:
    store = made(tmp_path)
    gone = next(tmp_path.glob("000001-*"))
    gone.unlink()
    with pytest.raises(StoreError, match=gone.name):
        StoreDataset(store)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.integers(0, 19), max_size=40), held_out=st.booleans())
def test_mapped_and_resident_reads_are_equal(rows: list[int], held_out: bool, store: Store) -> None:
    rows = [row % 8 for row in rows] if held_out else rows
    resident, mapped = datasets(store, held_out)
    one, other = resident.take(rows), mapped.take(torch.tensor(rows, dtype=torch.long))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
    assert one[0].shape == (len(rows), *SHAPE)
    assert one[2].tolist() == [row + (20 if held_out else 0) for row in rows]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4, 7, 8, 100])
def test_an_epoch_covers_every_row_once(size: int, held_out: bool, store: Store) -> None:
    first, count = (20, 8) if held_out else (0, 20)
    for data in datasets(store, held_out):
        batches = list(data.epoch(size, Key(0), 3))
        sizes = [min(size, count - at) for at in range(0, count, size)]
        if sizes[-1] == 1 < size:
            sizes[-2:] = [size - 1, 2]
        assert [len(labels) for _, _, labels in batches] == sizes
        seen = torch.cat([labels for _, _, labels in batches])
        assert sorted(seen.tolist()) == list(range(first, first + count))
        assert torch.equal(torch.cat([inputs[:, 0, 0] for inputs, _, _ in batches]).long(), seen)


def order(data: StoreDataset, key: Key, number: int, first: int = 0) -> list[list[int]]:
    return [labels.tolist() for _, _, labels in data.epoch(3, key, number, first)]


def test_the_order_is_a_function_of_key_and_epoch(store: Store) -> None:
    resident, mapped = datasets(store)
    wanted = order(resident, Key(0), 0)
    torch.manual_seed(99)
    torch.rand(7)
    assert order(mapped, Key(0), 0) == order(StoreDataset(store), Key(0), 0) == wanted
    others = [order(resident, *asked) for asked in ((Key(0), 1), (Key(1), 0), (Key(0).at("x"), 0))]
    assert len({str(one) for one in [wanted, *others]}) == 4
    assert wanted != sorted(wanted)


@pytest.mark.parametrize("first", range(8))
def test_going_on_within_an_epoch(first: int, store: Store) -> None:
    for data in datasets(store):
        assert order(data, Key(0), 2, first) == order(data, Key(0), 2)[first:]


def test_the_global_generator_is_left_alone(store: Store) -> None:
    before = torch.get_rng_state()
    order(StoreDataset(store), Key(0), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_held_out_batches(tmp_path: Path) -> None:
    store = made(tmp_path, held_out=0)
    assert len(StoreDataset(store, held_out=True)) == 0 and len(StoreDataset(store)) == 20


def test_a_set_with_gaps_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    min(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(StoreError, match="5 of 7 batches are there") as caught:
        StoreDataset(Store.open(tmp_path))
    assert "onnxcake extract" in caught.value.remedy


def test_torchs_own_loader_reads_it(store: Store) -> None:
    from torch.utils.data import DataLoader

    data = StoreDataset(store)
    inputs, logits, labels = next(iter(DataLoader(data, batch_size=3)))
    assert inputs.shape == (3, *SHAPE)
    assert torch.equal(logits, data.take([0, 1, 2])[1])
    assert labels.tolist() == [0, 1, 2]


def test_no_batch_of_an_epoch_is_a_lone_sample(store: Store) -> None:
    """Batch normalisation refuses one; the number of batches stays."""
    data = StoreDataset(store)
    sizes = [len(rows[2]) for rows in data.epoch(len(data) - 1, Key(0), 0)]
    assert sizes == [len(data) - 2, 2]
    seen = torch.cat([rows[2] for rows in data.epoch(len(data) - 1, Key(0), 0)])
    assert sorted(seen.tolist()) == list(range(len(data)))
