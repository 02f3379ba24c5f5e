"""The store: what goes in comes out to the bit, every damage is found, and nothing of another set is taken."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from onnxcake.core import files
from onnxcake.core.errors import OutputError, StoreError
from onnxcake.core.tensorfile import pack
from onnxcake.store import shard
from onnxcake.store.shard import Batch
from onnxcake.store.store import FILE, QUARANTINE, Layout, Store

SHAPE, CLASSES, BATCH = (1, 4, 4), 3, 4


def layout(**changes: Any) -> Layout:
    plain = Layout(
        key="k" * 64,
        made_from={"teacher": "t.onnx", "seed": "0", "synthesis.batch": "4"},
        batches=3,
        held_out=2,
        batches_per_shard=1,
        batch=BATCH,
        shape=SHAPE,
        classes=CLASSES,
    )
    return replace(plain, **changes)


def batch(index: int, salt: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(1000 * salt + index)
    return Batch(
        index,
        torch.randn(BATCH, *SHAPE, generator=draw),
        torch.randn(BATCH, CLASSES, generator=draw),
        torch.randint(CLASSES, (BATCH,), generator=draw),
        attempts=index % 3,
    )


def filled(folder: Path, wanted: Layout | None = None) -> Store:
    store = Store.create(folder, wanted or layout())
    for index in list(store.missing()):
        store.append(batch(index))
    return store


def shards_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def holds(store: Store, index: int, salt: int = 0) -> bool:
    """Whether batch ``index`` is there, to the bit."""
    number, place = divmod(index, store.layout.batches_per_shard)
    found, wanted = store.shard(number), batch(index, salt)
    rows = slice(place * BATCH, (place + 1) * BATCH)
    return (
        torch.equal(found.inputs[rows], wanted.inputs)
        and torch.equal(found.logits[rows], wanted.logits)
        and torch.equal(found.labels[rows], wanted.labels)
        and found.attempts[place] == wanted.attempts
    )


# --- round trip --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_shard", [1, 2, 3, 5, 100])
def test_what_goes_in_comes_out(per_shard: int, tmp_path: Path) -> None:
    """Two batches for each shard leave a ragged last one: 5 = 2 + 2 + 1."""
    wanted = layout(batches_per_shard=per_shard)
    store = filled(tmp_path, wanted)
    assert len(shards_in(tmp_path)) == wanted.shards == -(-5 // per_shard)
    for again in (store, Store.create(tmp_path, wanted), Store.open(tmp_path)):
        assert again.complete and again.finished == 5 and not list(again.missing())
        assert again.layout == wanted
        assert again.attempts == sum(batch(index).attempts for index in range(5))
        assert all(holds(again, index) for index in range(5))
        assert again.digests() == [path.name for path in shards_in(tmp_path)]


def test_an_empty_store_misses_everything(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "deep" / "folder", layout())
    assert list(store.missing()) == [0, 1, 2, 3, 4]
    assert (store.finished, store.complete, store.attempts, store.digests()) == (0, False, 0, [])


def test_batches_may_come_in_any_order(tmp_path: Path) -> None:
    wanted = layout(batches_per_shard=2)
    store = Store.create(tmp_path / "one", wanted)
    for index in (4, 1, 2, 0):
        store.append(batch(index))
    assert list(store.missing()) == [2, 3] and store.finished == 3
    store.append(batch(3))
    assert store.complete
    assert store.digests() == filled(tmp_path / "other", wanted).digests()


def test_a_shard_is_not_there_before_its_last_batch(tmp_path: Path) -> None:
    store = Store.create(tmp_path, layout(batches_per_shard=3))
    store.append(batch(0))
    store.append(batch(1))
    assert not shards_in(tmp_path) and list(store.missing()) == [0, 1, 2, 3, 4]
    assert list(Store.create(tmp_path, store.layout).missing()) == [0, 1, 2, 3, 4], "what was not committed is lost"


def test_the_same_batches_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = (filled(tmp_path / name) for name in ("one", "other"))
    assert one.digests() == other.digests()
    for name in one.digests():
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


# --- damage ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of about a kilobyte: two batches."""
    folder = tmp_path_factory.mktemp("small")
    store = Store.create(folder, layout(batches=2, held_out=0, batches_per_shard=2))
    store.append(batch(0))
    store.append(batch(1))
    (path,) = shards_in(folder)
    assert 900 < path.stat().st_size < 2000
    return path


def read(path: Path) -> shard.Shard | None:
    return shard.read(path, "k" * 64, range(2), (2 * BATCH, *SHAPE), CLASSES)


def test_every_truncation_is_found(small: Path, tmp_path: Path) -> None:
    content, damaged = small.read_bytes(), tmp_path / small.name
    assert read(small) is not None
    for length in range(len(content)):
        damaged.write_bytes(content[:length])
        assert read(damaged) is None, f"cut to {length} bytes"
    damaged.write_bytes(content + b"\0")
    assert read(damaged) is None
    damaged.write_bytes(content)
    assert read(damaged) is not None


def test_every_flipped_bit_is_found(small: Path, tmp_path: Path) -> None:
    damaged = tmp_path / small.name
    content = bytearray(small.read_bytes())
    damaged.write_bytes(content)
    with damaged.open("r+b", buffering=0) as file:
        for bit in range(len(content) * 8):
            place, mask = bit // 8, 1 << (bit % 8)
            file.seek(place)
            file.write(bytes([content[place] ^ mask]))
            assert read(damaged) is None, f"bit {bit}"
            file.seek(place)
            file.write(bytes([content[place]]))
    assert read(damaged) is not None


def test_every_change_of_the_name_is_found(tmp_path: Path) -> None:
    filled(tmp_path)
    good = shards_in(tmp_path)[1]
    content = good.read_bytes()
    for path in shards_in(tmp_path):
        path.unlink()
    for place in range(len(good.name)):
        for letter in "02f-X":
            name = good.name[:place] + letter + good.name[place + 1 :]
            (tmp_path / name).write_bytes(content)
            assert Store.open(tmp_path).finished == (name == good.name), name
            (tmp_path / name).unlink()


def test_a_store_json_with_another_key_takes_no_shard(tmp_path: Path) -> None:
    filled(tmp_path)
    value = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**value, "key": "o" * 64}))
    before = sorted(tmp_path.iterdir())
    assert Store.open(tmp_path).finished == 0
    with pytest.raises(StoreError, match="its key differs"):
        Store.create(tmp_path, layout())
    assert sorted(tmp_path.iterdir()) == before


def damages(folder: Path) -> dict[str, Callable[[Path], None]]:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-1])

    def empty(path: Path) -> None:
        path.write_bytes(b"")

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    def link(path: Path) -> None:
        shutil.move(path, folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")

    def dangling(path: Path) -> None:
        path.unlink()
        path.symlink_to(folder / "gone")

    def folded(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def fifo(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def made_up(path: Path) -> None:
        path.unlink()
        content = b"not a safetensors file"
        path.with_name(f"{path.name[:6]}-{files.sha256(content)[:16]}.safetensors").write_bytes(content)

    makers = (cut, empty, flip, link, dangling, folded, fifo, made_up)
    return {make.__name__: make for make in makers}


@pytest.mark.parametrize("kind", damages(Path()))
def test_a_damaged_shard_is_put_away_and_made_again(kind: str, tmp_path: Path) -> None:
    folder, wanted = tmp_path / "store", layout(batches_per_shard=2)
    before = filled(folder, wanted).digests()
    damages(tmp_path)[kind](shards_in(folder)[1])
    damaged = shards_in(folder)[1]
    told: list[str] = []
    store = Store.create(folder, wanted, told.append)

    assert list(store.missing()) == [2, 3] and store.finished == 3
    assert not os.path.lexists(damaged) and os.path.lexists(folder / QUARANTINE / damaged.name)
    assert len(told) == 1 and damaged.name in told[0] and QUARANTINE in told[0]
    for index in list(store.missing()):
        store.append(batch(index))
    assert store.digests() == before
    assert Store.create(folder, wanted, told.append).complete and len(told) == 1


def test_the_same_shard_may_be_damaged_again(tmp_path: Path) -> None:
    filled(tmp_path)
    for _ in range(3):
        shards_in(tmp_path)[0].write_bytes(b"")
        store = Store.create(tmp_path, layout())
        assert list(store.missing()) == [0]
        store.append(batch(0))
    assert len(list((tmp_path / QUARANTINE).iterdir())) == 3


def test_a_reader_moves_nothing(tmp_path: Path) -> None:
    """Any number may read, perhaps from a folder that is not theirs; only the writer mends."""
    filled(tmp_path)
    shards_in(tmp_path)[1].write_bytes(b"")
    before = sorted(tmp_path.iterdir())
    told: list[str] = []
    store = Store.open(tmp_path, told.append)
    assert list(store.missing()) == [1] and sorted(tmp_path.iterdir()) == before
    assert len(told) == 1 and before[1].name in told[0]


def test_a_lost_shard_is_missing(tmp_path: Path) -> None:
    filled(tmp_path)
    for path in shards_in(tmp_path)[1:4:2]:
        path.unlink()
    assert list(Store.create(tmp_path, layout()).missing()) == [1, 3]


# --- what does not belong ----------------------------------------------------------------------------------


def test_a_shard_of_another_store_is_put_away(tmp_path: Path) -> None:
    filled(tmp_path / "own")
    filled(tmp_path / "other", layout(key="o" * 64))
    own, other = (shards_in(tmp_path / name)[2] for name in ("own", "other"))
    own.unlink()
    shutil.copy(other, own.parent)
    store = Store.create(tmp_path / "own", layout())
    assert list(store.missing()) == [2] and (tmp_path / "own" / QUARANTINE / other.name).exists()


def test_a_shard_under_anothers_number_is_put_away(tmp_path: Path) -> None:
    filled(tmp_path)
    first, second = shards_in(tmp_path)[:2]
    second.unlink()
    shutil.copy(first, first.with_name("000001" + first.name[6:]))
    store = Store.create(tmp_path, layout())
    assert list(store.missing()) == [1] and holds(store, 0)


def test_a_number_beyond_the_last_is_put_away(tmp_path: Path) -> None:
    filled(tmp_path)
    first = shards_in(tmp_path)[0]
    for number in ("000005", "999999", "1000000"):
        shutil.copy(first, first.with_name(number + first.name[6:]))
    store = Store.create(tmp_path, layout())
    assert store.complete and len(list((tmp_path / QUARANTINE).iterdir())) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": torch.zeros(BATCH, 1, 4, 5)},
        {"inputs": torch.zeros(BATCH, 16)},
        {"inputs": torch.zeros(BATCH - 1, *SHAPE)},
        {"inputs": torch.zeros(BATCH, *SHAPE, dtype=torch.float64)},
        {"inputs": torch.tensor(0.0)},
        {"logits": torch.zeros(BATCH, CLASSES + 1)},
        {"logits": torch.zeros(BATCH + 1, CLASSES)},
        {"logits": torch.zeros(BATCH, CLASSES, dtype=torch.float16)},
        {"logits": torch.tensor(0.0)},
        {"labels": torch.zeros(BATCH, dtype=torch.int32)},
        {"labels": torch.zeros(BATCH, 1, dtype=torch.int64)},
        {"labels": torch.zeros(BATCH - 1, dtype=torch.int64)},
        {"labels": None},
        {"store_key": "o" * 64},
        {"first": 1},
        {"first": "0"},
        {"first": None},
        {"format": "2"},
        {"format": None},
        {"attempts": [0, 0]},
        {"attempts": ["x"]},
        {"attempts": []},
        {"attempts": 0},
        {"attempts": None},
        {"unknown": "more"},
    ],
)
def test_a_well_formed_shard_that_does_not_fit(change: dict[str, Any], tmp_path: Path) -> None:
    Store.create(tmp_path, layout())
    tensors = {name: getattr(batch(0), name) for name in ("inputs", "logits", "labels")}
    facts = {"format": "1", "store_key": "k" * 64, "first": 0, "attempts": [0]}
    for name, value in change.items():
        group: dict[str, Any] = tensors if name in tensors else facts
        group[name] = value
        if value is None:
            del group[name]
    files.write_with_digest(tmp_path, "000000", ".safetensors", pack(tensors, facts))
    fits = list(change) == ["unknown"]
    assert (Store.open(tmp_path).finished == 1) is fits


def test_two_files_for_one_shard_are_refused(tmp_path: Path) -> None:
    before = filled(tmp_path).digests()
    assert shard.write(tmp_path, 1, [batch(1, salt=1)], "k" * 64).name not in before
    for opening in (lambda: Store.create(tmp_path, layout()), lambda: Store.open(tmp_path)):
        with pytest.raises(StoreError, match="two different files for shard 1") as caught:
            opening()
        assert caught.value.exit_code == 6
    assert len(shards_in(tmp_path)) == 6, "nothing was touched"


@pytest.mark.parametrize("digest", ["0" * 16, "f" * 16])
def test_a_damaged_file_beside_a_good_one_is_put_away(digest: str, tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / f"000001-{digest}.safetensors").write_bytes(b"damaged")
    store = Store.create(tmp_path, layout())
    assert store.complete and holds(store, 1)


def test_other_files_do_not_matter(tmp_path: Path) -> None:
    filled(tmp_path)
    for name in ("README", "000001.safetensors", "1-0123456789abcdef.safetensors", "000001-0123456789abcdef.npz"):
        (tmp_path / name).write_bytes(b"x")
    assert Store.create(tmp_path, layout()).complete
    assert (tmp_path / "README").exists() and not (tmp_path / QUARANTINE).exists()


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    filled(tmp_path)
    leftover = tmp_path / f".{shards_in(tmp_path)[0].name}.4711.tmp"
    leftover.write_bytes(b"half a sh")
    Store.open(tmp_path)
    assert leftover.exists(), "a reader sweeps nothing"
    assert Store.create(tmp_path, layout()).complete and not leftover.exists()


@pytest.mark.parametrize("name", ["inputs", "logits"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_shard_of_what_is_no_number_is_put_away_though_its_digest_holds(
    name: str, value: float, tmp_path: Path
) -> None:
    store = filled(tmp_path)
    first = shards_in(tmp_path)[0]
    first.unlink()
    spoilt = batch(0)
    getattr(spoilt, name).view(-1)[0] = value
    shard.write(tmp_path, 0, [spoilt], store.layout.key)
    again = Store.create(tmp_path, layout())
    assert list(again.missing()) == [0] and len(list((tmp_path / QUARANTINE).iterdir())) == 1
    again.append(batch(0))
    assert again.complete and holds(again, 0)


@pytest.mark.parametrize("errors", [1, 2, 3])
def test_an_input_error_as_a_fresh_shard_is_read_back(
    errors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One or two are passed over; a disk that stays like that is said, and nothing is lost."""
    store, reading, failed = Store.create(tmp_path, layout()), files.sha256_file, []

    def failing(path: Path) -> str:
        if len(failed) < errors:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return reading(path)

    monkeypatch.setattr(files, "sha256_file", failing)
    if errors < 3:
        store.append(batch(0))
        assert holds(store, 0)
        return
    with pytest.raises(OutputError, match="does not read back") as caught:
        store.append(batch(0))
    assert caught.value.where == str(shards_in(tmp_path)[0]) and caught.value.remedy
    assert holds(Store.create(tmp_path, layout()), 0)


# --- store.json --------------------------------------------------------------------------------------------


def test_another_key_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    filled(tmp_path)
    made_from = {"teacher": "u.onnx", "seed": "0", "input": "[0, 1]"}
    with pytest.raises(StoreError) as caught:
        Store.create(tmp_path, layout(key="o" * 64, made_from=made_from))
    text = str(caught.value)
    assert "teacher was t.onnx, is now u.onnx" in text and "seed" not in text
    assert "synthesis.batch was 4, is now None" in text and "input was None, is now [0, 1]" in text
    assert caught.value.exit_code == 6 and caught.value.remedy
    assert Store.create(tmp_path, layout()).complete, "nothing was touched"


def test_another_key_from_the_same_parts_is_refused(tmp_path: Path) -> None:
    Store.create(tmp_path, layout())
    with pytest.raises(StoreError, match="its key differs"):
        Store.create(tmp_path, layout(key="o" * 64))


def test_no_store(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(StoreError, match=r"store\.json is missing") as caught:
            Store.open(folder)
        assert caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_shards_without_a_store_json_are_left_alone(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(StoreError, match=r"shards without a store\.json"):
        Store.create(tmp_path, layout())
    with pytest.raises(StoreError):
        Store.open(tmp_path)
    assert len(shards_in(tmp_path)) == 5 and not (tmp_path / FILE).exists()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    value = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**value, "format": "2", "news": 1}))
    for opening in (lambda: Store.create(tmp_path, layout()), lambda: Store.open(tmp_path)):
        with pytest.raises(StoreError, match="another version"):
            opening()


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda value: {k: v for k, v in value.items() if k != name}


def having(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda value: {**value, **changes}


NAMES = ("format", "key", "made_from", "batches", "held_out", "batches_per_shard", "batch", "shape", "classes")


@pytest.mark.parametrize(
    "spoil",
    [
        *(without(name) for name in NAMES),
        *(having(**{name: value}) for name in NAMES for value in (None, -1, 1.5, {"a": [1]}, [None])),
        *(having(**{name: "x"}) for name in NAMES if name != "key"),
        having(unknown=1),
        having(batches_per_shard=0),
        having(batch=0),
        having(classes=0),
        having(batches=0, held_out=0),
        having(shape=[0]),
        having(shape=[True]),
        having(batches=True),
        having(made_from={"teacher": 1}),
        lambda value: [value],
        lambda value: "text",
        lambda value: 7,
        lambda value: None,
    ],
)
def test_a_spoilt_store_json_is_refused(spoil: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    filled(tmp_path)
    value = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(spoil(value)))
    before = sorted(tmp_path.iterdir())
    for opening in (lambda: Store.create(tmp_path, layout()), lambda: Store.open(tmp_path)):
        with pytest.raises(StoreError) as caught:
            opening()
        assert caught.value.remedy and caught.value.where in (str(tmp_path), str(tmp_path / FILE))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\0" * 100, b"{}", b'{"format": "1"}', b"[" * 100_000])
def test_an_unreadable_store_json_is_refused(content: bytes, tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / FILE).write_bytes(content)
    for opening in (lambda: Store.create(tmp_path, layout()), lambda: Store.open(tmp_path)):
        with pytest.raises(StoreError):
            opening()


def test_a_truncated_store_json_is_refused(tmp_path: Path) -> None:
    Store.create(tmp_path, layout())
    content = (tmp_path / FILE).read_bytes()
    for length in range(len(content.rstrip())):
        (tmp_path / FILE).write_bytes(content[:length])
        with pytest.raises(StoreError):
            Store.open(tmp_path)


# --- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_loses_only_the_shard_at_hand(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path, layout())
    store.append(batch(0))

    def fails(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OutputError) as caught:
            store.append(batch(1))
    assert caught.value.exit_code == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == [shards_in(tmp_path)[0].name, FILE]
    again = Store.create(tmp_path, layout())
    assert list(again.missing()) == [1, 2, 3, 4] and holds(again, 0)


class StoreMachine(RuleBasedStateMachine):
    """Batches come and go; the store must always know which shards are whole, and give them back to the bit."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="onnxcake-store-"))
        self.layout = layout(batches=5, held_out=2, batches_per_shard=2)
        self.waiting: set[int] = set()
        self.whole: set[int] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def create(self) -> None:
        self.store = Store.create(self.folder, self.layout)

    @rule(index=st.integers(0, 6))
    def append(self, index: int) -> None:
        self.store.append(batch(index))
        self._took(index)

    @rule(data=st.data())
    def append_what_is_missing(self, data: st.DataObject) -> None:
        missing = list(self.store.missing())
        for index in missing[: data.draw(st.integers(0, len(missing)))]:
            self.append(index)

    @rule(index=st.integers(0, 6), call=st.integers(1, 2))
    def append_with_a_fault(self, index: int, call: int) -> None:
        """The disk fails at the shard's own fsync (1), or at its folder's, after the commit (2)."""
        calls = 0
        sync = os.fsync

        def failing(handle: int) -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(errno.EIO, "I/O error")
            sync(handle)

        os.fsync = failing  # type: ignore[assignment]
        try:
            self.store.append(batch(index))
        except OutputError:
            pass
        else:
            self._took(index)
            return
        finally:
            os.fsync = sync
        if call == 2:
            self.whole.add(index // 2)
        self.reopen()  # a run ends at such an error

    @rule(half=st.binary(max_size=50), shard=st.integers(0, 3))
    def crash(self, half: bytes, shard: int) -> None:
        (self.folder / f".00000{shard}-0123456789abcdef.safetensors.1.tmp").write_bytes(half)
        self.reopen()
        assert not list(self.folder.glob(".*.tmp"))

    @rule()
    def reopen(self) -> None:
        self.waiting.clear()
        self.store = Store.create(self.folder, self.layout)

    @precondition(lambda self: self.whole)
    @rule(data=st.data(), kind=st.sampled_from(sorted(damages(Path()))))
    def corrupt(self, data: st.DataObject, kind: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.whole)))
        (path,) = self.folder.glob(f"{number:06d}-*.safetensors")
        outside = self.folder / "outside"
        outside.mkdir(exist_ok=True)
        damages(outside)[kind](path)
        self.whole.remove(number)
        self.reopen()

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.whole)))
        (path,) = self.folder.glob(f"{number:06d}-*.safetensors")
        path.unlink()
        self.whole.remove(number)
        self.reopen()

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        missing = [i for number in range(4) if number not in self.whole for i in self.layout.batches_in(number)]
        assert list(self.store.missing()) == missing
        assert self.store.complete is (len(self.whole) == 4)
        assert self.store.finished == 7 - len(missing)
        assert all(holds(self.store, index) for index in range(7) if index // 2 in self.whole)

    def _took(self, index: int) -> None:
        self.waiting.add(index)
        number = index // 2
        if set(self.layout.batches_in(number)) <= self.waiting:
            self.waiting -= set(self.layout.batches_in(number))
            self.whole.add(number)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
