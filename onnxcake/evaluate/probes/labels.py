"""Convert labels of any form to classes, as int64."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.arrays import Array
from ...core.errors import ProbeError
from ...core.text import shown
from .parts import Wanted

_WORDS = {"y", "label", "labels", "target", "targets", "class", "classes", "category"}
_INT64 = np.iinfo(np.int64)


def is_label_name(name: str) -> bool:
    """Tell whether a name suggests labels: y, y_test, labels, Target, class …"""
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return not _WORDS.isdisjoint(words) and "names" not in words


def texts_of(array: Array) -> Array:
    """Convert an array of text or of UTF-8 bytes to text."""
    return array if array.dtype.kind == "U" else np.char.decode(array, "utf-8", "replace")


@dataclass(frozen=True)
class LabelReader:
    """Convert an array of labels to classes for one teacher.

    Attributes:
        wanted: what the teacher asks for.
        source: the file, for messages.
        name: where the labels were found, for messages: an array's name in quotes, a column, folders.
    """

    wanted: Wanted
    source: Path
    name: str

    def of(self, array: Array, count: int) -> tuple[Array, tuple[str, ...]]:
        """Convert to classes [n], or labels set [n, labels] for a multi-label teacher, int64; and notes for the user.

        Raises:
            ProbeError: if they are not labels of ``count`` inputs, or of other classes.
        """
        if array.shape[:1] != (count,) or array.ndim > 2:
            raise self._error(f"has shape {list(array.shape)}, for {count} inputs", "Give one label for each input.")
        if array.dtype.kind in "US":
            return self.by_name(texts_of(array).reshape(-1).tolist() if array.size == count else [], count)
        whole = self._to_whole_numbers(array)
        if self.wanted.signature.task == "multilabel":
            return self._multilabel(whole), ()
        if whole.ndim == 2 and whole.shape[1] == 1:
            whole = whole[:, 0]
        if whole.ndim == 2:
            return self._one_hot(whole)
        known = self._numbers()
        if known and set(whole.tolist()) <= known.keys():
            told = f"{self.name} holds classes as the file numbers them, {min(known)} to {max(known)}"
            return np.array([known[number] for number in whole.tolist()], np.int64), (told,)
        self._check(whole)
        return whole, ()

    def by_name(self, texts: list[str], count: int) -> tuple[Array, tuple[str, ...]]:
        """Convert classes' names, or numbers written as text, to classes.

        Raises:
            ProbeError: if the file does not name its classes, or not so.
        """
        if len(texts) == count and all(re.fullmatch(r"\s*[+-]?\d{1,18}\s*", text) for text in texts):
            return self.of(np.array([int(text) for text in texts], np.int64), count)
        places = [self._place(text) for text in texts]
        if len(texts) != count or None in places or self.wanted.signature.task == "multilabel":
            why = "holds text, and the teacher's file does not name its classes"
            if self.wanted.class_names and None in places:
                strange = shown(texts[places.index(None)])
                why = f"names {strange}, which is not the name of one of the file's classes {self._some_class_names()}"
            raise self._error(why, f"Give {self._wanted_labels()}.")
        told = f"{self.name} holds names of classes: they are taken in the file's order, {self._some_class_names()}"
        return np.array(places, np.int64), (told,)

    def _place(self, text: str) -> int | None:
        """Return the index of the one class of this name, or of this name in another case; None if there is none."""
        names = self.wanted.class_names
        for alike in (str, lambda name: name.strip().casefold()):
            same = [place for place, name in enumerate(names) if alike(name) == alike(text)]
            if same:
                return same[0] if len(same) == 1 else None
        return None

    def _to_whole_numbers(self, array: Array) -> Array:
        if array.dtype.kind not in "iubf":
            raise self._error(f"is of type {array.dtype}", f"Give {self._wanted_labels()}.")
        if array.dtype.kind == "f" and (not np.isfinite(array).all() or (array != np.rint(array)).any()):
            raise self._error("holds fractions or values that are not finite", f"Give {self._wanted_labels()}.")
        if array.size and not (_INT64.min <= int(array.min()) and int(array.max()) <= _INT64.max):
            raise self._out_of_range_error(int(array.min()), int(array.max()))
        return array.astype(np.int64)

    def _multilabel(self, whole: Array) -> Array:
        classes = self.wanted.signature.classes
        if whole.ndim != 2 or (classes and whole.shape[1] != classes) or not np.isin(whole, (0, 1)).all():
            raise self._error(
                f"has shape {list(whole.shape)} and values from {whole.min()} to {whole.max()}, "
                f"but the teacher decides {classes} labels, yes or no, for each input",
                f"Give {self._wanted_labels()}.",
            )
        return whole

    def _one_hot(self, whole: Array) -> tuple[Array, tuple[str, ...]]:
        classes = self.wanted.signature.classes
        if (classes and whole.shape[1] != classes) or (whole < 0).any() or not (np.abs(whole).sum(1) == 1).all():
            raise self._error(
                f"has shape {list(whole.shape)} and is not one-hot over the teacher's {classes} classes",
                f"Give {self._wanted_labels()}.",
            )
        return whole.argmax(1), (f"{self.name} is one-hot: the place of its 1 is the class",)

    def _numbers(self) -> dict[int, int]:
        """Return the index of each class by the file's own number; empty where it has none, or they are 0, 1, 2 …"""
        names = self.wanted.class_names
        if not names or not all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
            return {}
        numbers = [int(name) for name in names]
        return {} if numbers == list(range(len(names))) else {n: place for place, n in enumerate(numbers)}

    def _check(self, whole: Array) -> None:
        classes = self.wanted.signature.classes
        low, high = int(whole.min(initial=0)), int(whole.max(initial=0))
        if classes and (low < 0 or high >= classes):
            raise self._out_of_range_error(int(whole.min()), high)

    def _out_of_range_error(self, low: int, high: int) -> ProbeError:
        classes = self.wanted.signature.classes
        remedy = f"Give labels from 0 to {classes - 1}."
        if low == 1 and high == classes:
            remedy = f"Labels go from 1 to {classes} here: subtract 1. {remedy}"
        elif low == -1:
            remedy = f"Where −1 means that there is no label, leave these inputs out. {remedy}"
        return ProbeError(
            f"its labels ({self.name}) go from {low} to {high}, but the teacher has {classes} classes",
            where=self.source,
            remedy=remedy,
        )

    def _wanted_labels(self) -> str:
        classes = self.wanted.signature.classes
        if self.wanted.signature.task == "multilabel":
            return f"labels [n, {classes}] of 0 and 1"
        return f"whole numbers from 0 to {classes - 1}" if classes else "whole numbers from 0"

    def _some_class_names(self) -> str:
        names = self.wanted.class_names
        some = ", ".join(f"{shown(name)}" for name in names[:4])
        return f"({some}{', …' if len(names) > 4 else ''})"

    def _error(self, why: str, remedy: str) -> ProbeError:
        return ProbeError(f"{self.name} should be the labels, and {why}", where=self.source, remedy=remedy)
