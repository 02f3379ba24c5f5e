"""List which batches of a set exist and which are missing, from the files in the folder alone, without an index."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import json_files
from ..core.errors import OutputError, StoreError
from ..core.files import is_there, make_folder, move, remove, sweep, write_json
from ..core.quantities import Count, CountOrNone
from . import shard as shards
from .shard import Batch, Shard

FILE = "store.json"
QUARANTINE = "quarantine"
_ELSEWHERE = "Choose another --out; the files are left as they are."
_READS = 3  # of a fresh shard: one error of a disk or a network is not the end


@dataclass(frozen=True)
class Layout:
    """Describe what a store holds; written once, as ``store.json``.

    Attributes:
        key: a digest over all that the samples depend on.
        made_from: the same in readable parts, to say what differs.
        batches: to learn from; 0 if the method keeps none.
        held_out: not to learn from; they come after the others.
        batches_per_shard: batches in one file.
        batch: samples in one batch.
        shape: of one sample.
        classes: numbers in one answer.
    """

    __pydantic_config__ = json_files.EXACT
    key: str
    made_from: dict[str, str]
    batches: CountOrNone
    held_out: CountOrNone
    batches_per_shard: Count
    batch: Count
    shape: tuple[Count, ...]
    classes: Count

    @property
    def shards(self) -> int:
        """Count the files of the finished store."""
        return math.ceil((self.batches + self.held_out) / self.batches_per_shard)

    def batches_in(self, number: int) -> range:
        """Return the indices of the batches of shard ``number``."""
        first = number * self.batches_per_shard
        return range(first, min(first + self.batches_per_shard, self.batches + self.held_out))


class Store:
    """Folder of shards, which one process writes and any number may read.

    Args:
        folder: where the shards lie.
        layout: what it holds.
        say: callback for messages about shards that are not used.
        mend: whether to move such shards away, so that they are made again; only the writer may.
    """

    def __init__(
        self, folder: Path, layout: Layout, say: Callable[[str], None] = lambda text: None, *, mend: bool = False
    ) -> None:
        self.folder, self.layout = folder, layout
        self._say = say
        self._shards: dict[int, Path] = {}  # each is mapped when asked for, and let go: a set may be larger than memory
        self._attempts: dict[int, tuple[int, ...]] = {}
        self._waiting: dict[int, Batch] = {}
        self._scan(mend)

    @classmethod
    def create(
        cls, folder: Path, layout: Layout, say: Callable[[str], None] = lambda text: None, *, anew: bool = False
    ) -> Store:
        """Open the store in ``folder`` if it has the layout's key; create one if there is none.

        Args:
            anew: whether a store of another key that holds no shard may become this one.

        Raises:
            StoreError: if the folder holds the set of another teacher, recipe or plan.
            OutputError: if nothing can be written there.
        """
        make_folder(folder)
        sweep(folder)
        there = any(shards.number_of(path) is not None for path in folder.iterdir())
        found = _read_layout(folder) if (folder / FILE).exists() else None
        if found is not None and found.key != layout.key and (there or not anew):
            raise _other_set_error(folder, found.made_from, layout.made_from)
        if found is not None and found.key == layout.key and found != layout:
            raise _unusable_error(folder, f"{FILE} was changed: it has this run's key, and other numbers")
        if found is None and there:
            raise _unusable_error(folder, "there are shards without a store.json")
        if found is None or found.key != layout.key:
            value = {"format": shards.FORMAT, **vars(layout), "shape": list(layout.shape)}
            write_json(folder / FILE, value)
        return cls(folder, layout, say, mend=True)

    @classmethod
    def open(cls, folder: str | Path, say: Callable[[str], None] = lambda text: None) -> Store:
        """Open an existing store to read from.

        Raises:
            StoreError: if there is none, or its ``store.json`` cannot be read.
        """
        folder = Path(folder)
        if not is_there(folder / FILE):
            raise StoreError(
                "no store here (store.json is missing)",
                where=folder,
                remedy="Give the folder that `onnxcake extract` wrote, or its `store` folder.",
            )
        return cls(folder, _read_layout(folder), say)

    def missing(self) -> Iterator[int]:
        """Iterate over the batches still to be made, in order, whole shards at a time."""
        for number in range(self.layout.shards):
            if number not in self._shards:
                yield from self.layout.batches_in(number)

    @property
    def finished(self) -> int:
        """Count the batches in finished shards."""
        return sum(len(self.layout.batches_in(number)) for number in self._shards)

    @property
    def complete(self) -> bool:
        """Tell whether no batch is missing."""
        return len(self._shards) == self.layout.shards

    @property
    def attempts(self) -> int:
        """Count the starts discarded over the whole set because a loss was not finite."""
        return sum(sum(self._attempts[number]) for number in self._shards)

    def append(self, batch: Batch) -> None:
        """Append a batch; its shard is written as soon as all of the shard's batches are there.

        Raises:
            OutputError: if the shard cannot be written, or not be read back; finished shards are kept.
        """
        self._waiting[batch.index] = batch
        number = batch.index // self.layout.batches_per_shard
        wanted = self.layout.batches_in(number)
        if all(index in self._waiting for index in wanted):
            path = shards.write(self.folder, number, [self._waiting.pop(index) for index in wanted], self.layout.key)
            if not any(self._register(number, path) for _ in range(_READS)):
                raise OutputError(
                    "was written, and does not read back as it was",
                    where=path,
                    remedy="Check the disk, or choose another --out. The same command makes it again if it is damaged.",
                )

    def forget(self, first: int) -> None:
        """Remove the shards that hold batch ``first`` or later ones, which are going to be made again.

        Raises:
            OutputError: if one cannot be removed.
        """
        for path in sorted(self.folder.iterdir()):
            number = shards.number_of(path)
            if number is not None and (not (there := self.layout.batches_in(number)) or there.stop > first):
                remove(path)
                self._shards.pop(number, None)

    @property
    def waiting(self) -> list[Batch]:
        """List the appended batches whose shard is not complete yet: they are in memory alone."""
        return [self._waiting[index] for index in sorted(self._waiting)]

    def batch(self, index: int) -> Batch | None:
        """Return a batch that was appended, or None."""
        if index in self._waiting:
            return self._waiting[index]
        number, place = divmod(index, self.layout.batches_per_shard)
        if number not in self._shards:
            return None
        shard, rows = self.shard(number), slice(place * self.layout.batch, (place + 1) * self.layout.batch)
        return Batch(index, shard.inputs[rows], shard.logits[rows], shard.labels[rows], shard.attempts[place])

    def shard(self, number: int) -> Shard:
        """Map a shard's tensors into memory for as long as the caller holds them.

        Raises:
            StoreError: if its file is gone.
        """
        return shards.held(self._shards[number])

    def digests(self) -> list[str]:
        """List the names of all shards, in order; they carry the digests of the shards' content."""
        return sorted(path.name for path in self.folder.iterdir() if shards.number_of(path) is not None)

    def _scan(self, mend: bool) -> None:
        """Check every shard in the folder; skip damaged and foreign ones, and say so."""
        for path in sorted(self.folder.iterdir()):
            number = shards.number_of(path)
            if number is None:
                continue
            there = number in self._shards
            if not self._register(number, path):
                kept = f"was moved to {move(path, self.folder / QUARANTINE)}" if mend else "is not used"
                self._say(f"{path.name} is damaged or not of this set; it {kept}")
            elif there:
                raise _unusable_error(self.folder, f"two different files for shard {number}")

    def _register(self, number: int, path: Path) -> bool:
        """Check a file, and note it as shard ``number`` if it is whole."""
        batches = self.layout.batches_in(number)
        shape = (len(batches) * self.layout.batch, *self.layout.shape)
        found = shards.read(path, self.layout.key, batches, shape, self.layout.classes) if batches else None
        if found is not None:
            self._shards[number], self._attempts[number] = path, found.attempts
        return found is not None


def _read_layout(folder: Path) -> Layout:
    value = json_files.read(folder / FILE, dict[str, Any], _ELSEWHERE)
    if value.pop("format", None) != shards.FORMAT:
        raise _unusable_error(folder, f"{FILE} was written by another version of onnxcake")
    try:
        layout = json_files.of(value, Layout)
    except ValueError as error:
        raise _unusable_error(folder, f"{FILE} cannot be read back: {error}") from error
    if not layout.batches + layout.held_out:
        raise _unusable_error(folder, f"{FILE} tells of no batches")
    return layout


def _other_set_error(folder: Path, found: dict[str, str], wanted: dict[str, str]) -> StoreError:
    names = sorted({*found, *wanted})
    differ = [f"{n} was {found.get(n)}, is now {wanted.get(n)}" for n in names if found.get(n) != wanted.get(n)]
    return StoreError(
        "holds a set that was made otherwise: " + ("; ".join(differ) or "its key differs"),
        where=folder,
        remedy="Choose another --out, or repeat the first run's options to go on with it.",
    )


def _unusable_error(folder: Path, what: str) -> StoreError:
    return StoreError(what, where=folder, remedy=_ELSEWHERE)
