"""Read pictures: single files and folders of them, flat or with a folder for each class.

A picture is turned as its EXIF orientation says, converted to the teacher's 1 or 3 channels (palettes and CMYK are
resolved, an alpha channel is left out, 16 bits become 8), cut to the teacher's aspect ratio around its centre, and
scaled to the teacher's size with antialiased bilinear interpolation. Its values 0 … 255 are put into the teacher's
range, and normalised where the teacher's application does that outside the file.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ...core.arrays import Array
from ...core.errors import ProbeError
from ...core.text import shown
from .archives import check_memory
from .labels import LabelReader
from .matching import as_taken
from .parts import ProbePart, Takes, Wanted

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp")
UNREAD = (".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2", ".ppm", ".pgm")  # named, not passed over
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # no others: some decoders start programs
_MODES = {1: "L", 3: "RGB"}
_BYTE = 255.0


def read(path: Path, groups: Sequence[tuple[Path, Sequence[Path]]], wanted: Wanted) -> ProbePart:
    """Read pictures as the one input of a teacher of images.

    Args:
        path: what the user gave, for messages.
        groups: a folder and the pictures in it; several are class folders.

    Raises:
        ProbeError: if one cannot be read, or the teacher takes no pictures, or the folders are not its classes.
    """
    reader = _Reader(path, wanted)
    files = [file for _, group in groups for file in group]
    check_memory(len(files) * 4 * reader.numbers, path)
    labels, notes = None, []
    if groups[0][0] != path:
        classes, told = _classes([folder.name for folder, _ in groups], path, wanted)
        labels = np.repeat(classes, [len(group) for _, group in groups])
        notes.append(told)
    inputs = np.empty((len(files), *wanted.signature.input_shape), np.float32)
    for place, file in enumerate(files):
        inputs[place] = reader.read(file)
    feeds = {reader.takes.name: as_taken(inputs, reader.takes, path, path.name)}
    return ProbePart(path, feeds, labels, (reader.told(), *filter(None, notes)))


def _classes(names: Sequence[str], path: Path, wanted: Wanted) -> tuple[Array, str]:
    """Determine the class of each folder, and what to tell the user about it.

    Raises:
        ProbeError: if the folders are not the teacher's classes.
    """
    classes = wanted.signature.classes
    if wanted.signature.task == "multilabel":
        raise ProbeError(
            f"holds a folder for each class, but the teacher decides {classes} labels for each input",
            where=path,
            remedy="Put all pictures into one folder, or save them by numpy.savez with labels [n, labels] of 0 and 1.",
        )
    labels = LabelReader(wanted, path, "the folders' names")
    if all(re.fullmatch(r"\d{1,9}", name) for name in names) or wanted.class_names:
        found, notes = labels.by_name(list(names), len(names))
        return found, "; ".join(notes)
    if (numbers := _numbered(names)) and max(numbers) <= classes:
        return labels.of(np.array(numbers), len(names))[
            0
        ], f"{shown(names[0])} …: the numbers are taken for the classes"
    order = ", ".join(f"{shown(name)} = {place}" for place, name in enumerate(names[:4]))
    order += ", …" if len(names) > 4 else ""
    if classes and len(names) != classes:
        raise ProbeError(
            f"holds {len(names)} class folders ({order}), but the teacher has {classes} classes",
            where=path,
            remedy=f"Name the folders by the classes' numbers, 0 to {classes - 1}, or put all pictures into one folder "
            "to compare without labels.",
        )
    told = f"class folders are taken in alphabetical order: {order}"
    return np.arange(len(names)), told


def _numbered(names: Sequence[str]) -> list[int]:
    """Return the numbers at the end of names that differ in nothing else, as class_0, class_1 …; else none."""
    parts = [re.fullmatch(r"(.*?)(\d{1,9})", name) for name in names]
    found = [part for part in parts if part is not None]
    alike = len(found) == len(names) and len({part[1] for part in found}) == 1
    return [int(part[2]) for part in found] if alike else []


class _Reader:
    """Read pictures in one teacher's size, channels, layout and values."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.signature, self.takes = wanted.signature, wanted.takes[0]
        self.last, self.channels, self.height, self.width = _layout(path, wanted)
        self.numbers = self.channels * self.height * self.width
        bounds = self.signature.extent
        if bounds is None:
            raise ProbeError(
                "holds pictures, and nothing says which values the teacher takes for black and white",
                where=path,
                remedy="Give --range 0,1 or --range 0,255 as its application does, and --mean and --std if that "
                "normalises the pictures before the file.",
            )
        self.low, self.high = bounds

    def read(self, file: Path) -> Array:
        """Read one picture as the file takes it, without the batch, float32.

        Raises:
            ProbeError: if it cannot be read.
        """
        if not file.is_file():
            raise ProbeError("not a regular file", where=file, remedy="Give PNG, JPEG, BMP or WebP pictures.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=_FORMATS) as picture:
                    pixels = self._pixels(picture)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ProbeError(
                f"is larger than {Image.MAX_IMAGE_PIXELS or 0:,} pixels", where=file, remedy="Give smaller pictures."
            ) from error
        except Exception as error:  # damage makes Pillow and its decoders raise errors of their own
            why = getattr(error, "strerror", None) or "not a whole PNG, JPEG, BMP or WebP picture"
            raise ProbeError(
                f"cannot be read ({why})", where=file, remedy="Convert it to PNG, or leave it out."
            ) from error
        return self._values(pixels)

    def _pixels(self, picture: Image.Image) -> Array:
        """Convert a picture to bytes [height, width, channels] of the teacher's size."""
        turned = ImageOps.exif_transpose(picture)
        if turned.mode in ("I", "F") or turned.mode.startswith("I;16"):
            values = np.asarray(turned)
            if turned.mode == "F" or values.min() < 0 or values.max() > 65535:
                raise ValueError("no picture of 8 or 16 bits")
            turned = Image.fromarray(np.rint(values / 257.0).astype(np.uint8))
        if turned.mode in ("P", "PA", "La", "RGBa"):
            turned = turned.convert("RGBA")
        plain = turned.convert(_MODES[self.channels])
        fitted = ImageOps.fit(plain, (self.width, self.height), Image.Resampling.BILINEAR)
        return np.asarray(fitted).reshape(self.height, self.width, self.channels)

    def _values(self, pixels: Array) -> Array:
        unit = torch.from_numpy(pixels.astype(np.float32)) / _BYTE
        # Where the graph does not show that channels are last, no channel has a mean of its own.
        standing = unit if self.last and not self.signature.channels_last else unit.permute(2, 0, 1)
        taken = self.signature.from_raw(self.signature.over_range(standing[None]))
        return np.asarray(self.signature.whole(taken[0]).numpy())

    def told(self) -> str:
        """Word how the pictures were converted."""
        values = f"0 … 255 put into {self.low:g} … {self.high:g}"
        normalised = "" if self.signature.mean is None else ", then normalised by --mean and --std"
        return (
            f"pictures are cut to {self.width}:{self.height} around their centre and scaled to "
            f"{self.width}×{self.height} (bilinear), {values}{normalised}"
        )


def _layout(path: Path, wanted: Wanted) -> tuple[bool, int, int, int]:
    """Return whether channels are last, their number, height and width.

    Raises:
        ProbeError: if the teacher takes no pictures.
    """
    takes: Takes = wanted.takes[0]
    shape = takes.shape
    if len(wanted.takes) == 1 and takes.name == wanted.signature.input_name and len(shape) == 3 and None not in shape:
        first, middle, last = wanted.signature.input_shape
        if not wanted.signature.channels_last and first in _MODES:
            return False, first, middle, last
        if last in _MODES:
            return True, last, first, middle
    several = ", ".join(f"{shown(value.name)} {value}" for value in wanted.takes[:4])
    raise ProbeError(
        f"holds pictures, but the teacher does not take pictures of 1 or 3 channels: it takes {several}",
        where=path,
        remedy="Save the inputs as the file takes them, by numpy.savez, one array for each input.",
    )
