"""M05: weights kept in other files are read by us alone, inside the teacher's folder, and are part of its digest."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_text import N, parsed, value
from refusals import SCORES, W, answers_as_its_file, inner, made, own, refused, saved, tensor

from onnxcake.core.errors import BadTeacherFile, UnsupportedTeacher
from onnxcake.onnxfile import external
from onnxcake.onnxfile.load import load
from onnxcake.teacher.teacher import Teacher

FAR = "far\naway"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and special files are POSIX's here")


def outside(location: str | None, *entries: tuple[str, str], array: Any = W, name: str = FAR) -> TensorProto:
    """A tensor whose data are kept at ``location``."""
    kept = tensor(array, name)
    kept.ClearField("raw_data")
    kept.data_location = TensorProto.EXTERNAL
    for key, text in (*(() if location is None else (("location", location),)), *entries):
        kept.external_data.add(key=key, value=text)
    return kept


def sparse_of(values: TensorProto, indices: TensorProto | None = None) -> onnx.SparseTensorProto:
    values.dims[:] = [12]
    return helper.make_sparse_tensor(values, indices or tensor(np.arange(12, dtype=np.int64), "places"), [4, 3])


def constant(**attribute: Any) -> onnx.NodeProto:
    return N("Constant", [], ["C"], **attribute)


BY_C = N("MatMul", ["x", "C"], ["y"])


def in_a_branch(*nodes: onnx.NodeProto, initializer: TensorProto | None = None) -> onnx.ModelProto:
    branch = inner("branch", nodes)
    branch.initializer.extend([initializer] if initializer is not None else [])
    return made(N("If", ["yes"], ["y"], then_branch=branch, else_branch=branch), weights={"yes": np.array(True)})


def as_initialiser(kept: TensorProto) -> onnx.ModelProto:
    return made(N("MatMul", ["x", FAR], ["y"]), weights={FAR: kept})


def in_a_function(kept: TensorProto) -> onnx.ModelProto:
    dense = own("dense", constant(value=kept), "b = MatMul(a, C)")
    return made("y = own.dense(x)", domains={"own": 1}, functions=[dense])


def in_a_list_of_tensors(kept: TensorProto) -> onnx.ModelProto:
    return made(N("Secret", ["x"], ["y"], domain="acme", parts=[tensor(W, "first"), kept]), domains={"acme": 1})


INNER = N("MatMul", ["x", "C"], ["inner"])
PLACES: list[Callable[[TensorProto], onnx.ModelProto]] = [
    as_initialiser,
    lambda kept: made(constant(value=kept), BY_C),
    lambda kept: made(N("MatMul", ["x", FAR], ["y"]), sparse=[sparse_of(kept)]),
    lambda kept: made(constant(sparse_value=sparse_of(kept)), BY_C),
    in_a_list_of_tensors,
    lambda kept: in_a_branch(N("MatMul", ["x", FAR], ["inner"]), initializer=kept),
    lambda kept: in_a_branch(constant(value=kept), INNER),
    lambda kept: in_a_branch(constant(sparse_value=sparse_of(kept)), INNER),
    in_a_function,
]
IDS = (
    *("an initialiser", "an attribute", "a sparse initialiser", "a sparse attribute", "a list of tensors"),
    *("a sub-graph", "a node of a sub-graph", "a sparse node of a sub-graph", "a function"),
)

OUT = "outside the model's folder"
LINK = "missing or a link"
REGULAR = "not in a regular file of one name"
LOCATIONS = {
    "../secret.bin": OUT,
    "{folder}/../secret.bin": OUT,  # absolute
    "/etc/hostname": OUT,
    "a/../../secret.bin": OUT,
    "a/../w.bin": OUT,  # inside, and still not a plain path
    "..": OUT,
    "C:\\secret.bin": OUT,
    "C:secret.bin": OUT,
    "..\\secret.bin": OUT,
    "a\\w.bin": OUT,
    "\\\\host\\share": OUT,
    "file:///etc/hostname": OUT,
    "w.bin:stream": OUT,
    "nul\0byte": OUT,
    "": "name no location",
    ".": OUT,
    "gone.bin": LINK,
    "a/gone.bin": LINK,
    "w.bin/x": LINK,
    "link.bin": LINK,
    "safe-link.bin": LINK,  # even to a file beside it
    "linked-folder/secret.bin": LINK,
    "loop": LINK,
    "hard.bin": REGULAR,
    "a": REGULAR,  # a folder
    "fifo": REGULAR,
    "x" * 5000: LINK,
    "a/" * 3000 + "w.bin": LINK,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher's folder, with all that should not be read in and around it."""
    inside = tmp_path / "model"
    (inside / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for place in ("secret.bin", "elsewhere/secret.bin", "twice.bin", "model/w.bin"):
        (tmp_path / place).write_bytes(W.tobytes())
    (inside / "link.bin").symlink_to("../secret.bin")
    (inside / "safe-link.bin").symlink_to("w.bin")
    (inside / "linked-folder").symlink_to("../elsewhere")
    (inside / "loop").symlink_to("loop")
    (inside / "hard.bin").hardlink_to(tmp_path / "twice.bin")
    os.mkfifo(inside / "fifo")
    return inside


_opened: list[str] = []
_watching = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        _opened.append(os.fsdecode(arguments[0]))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The names of all files that Python opens meanwhile."""
    global _watching
    if _hook not in _hooked:
        sys.addaudithook(_hook)  # for good: there is no way to take one away
        _hooked.append(_hook)
    _opened.clear()
    _watching = True
    yield _opened
    _watching = False


_hooked: list[Any] = []


@pytest.mark.parametrize("place", PLACES, ids=IDS)
def test_no_location_outside_is_read(place: Callable[[TensorProto], onnx.ModelProto], folder: Path) -> None:
    step = 1 if place is as_initialiser else 4  # what is opened for any of them, the next test sees
    for location, words in [*LOCATIONS.items()][PLACES.index(place) % step :: step]:
        path = saved(place(outside(location.format(folder=folder))), folder)
        refused(path, BadTeacherFile, words, "'far\\naway'" if "name" not in words else "external data")


@pytest.mark.parametrize("place", PLACES, ids=IDS)
def test_nothing_outside_is_even_opened(
    place: Callable[[TensorProto], onnx.ModelProto], folder: Path, opened: list[str]
) -> None:
    for location in LOCATIONS:
        path = saved(place(outside(location.format(folder=folder))), folder)
        opened.clear()
        with pytest.raises(BadTeacherFile):
            load(path)
        # Names below the folder are opened relative to its descriptor, part by part.
        allowed = {str(path), str(folder), *location.split("/")} - {"..", ""}
        assert set(opened) <= allowed
        if ".." in location or location.startswith("/") or "\\" in location:
            assert set(opened) <= {str(path)}


ENTRIES = {
    "no location": ([], "name no location"),
    "a negative offset": ([("offset", "-4")], "offset or length that is no number"),
    "a negative length": ([("length", "-48")], "offset or length that is no number"),
    "an offset beyond the end": ([("offset", "4096")], "lie outside their file (48 bytes from 4,096 of 48)"),
    "an offset that leaves too little": ([("offset", "4")], "lie outside their file"),
    "a huge offset": ([("offset", "9" * 18)], "lie outside their file"),
    "an offset of 4300 digits": ([("offset", "9" * 4300)], "offset or length that is no number"),
    "an offset of 10000 digits": ([("offset", "9" * 10_000)], "offset or length that is no number"),
    "an offset with a fraction": ([("offset", "1.5")], "offset or length that is no number"),
    "an offset with an exponent": ([("offset", "1e3")], "offset or length that is no number"),
    "an offset in hexadecimal": ([("offset", "0x10")], "offset or length that is no number"),
    "an offset with an underscore": ([("offset", "1_0")], "offset or length that is no number"),
    "an offset with a sign": ([("offset", "+0")], "offset or length that is no number"),
    "an offset with a blank": ([("offset", " 0")], "offset or length that is no number"),
    "an offset in other digits": ([("offset", "٠")], "offset or length that is no number"),
    "NaN as length": ([("length", "nan")], "offset or length that is no number"),
    "an empty offset": ([("offset", "")], "offset or length that is no number"),
    "too short": ([("length", "44")], "44 bytes where its shape needs 48"),
    "too long": ([("length", "52")], "lie outside their file"),
    "a length of zero": ([("length", "0")], "0 bytes where its shape needs 48"),
    "a key nobody knows": ([("__class__", "x")], "the key '__class__' twice or one that is not known"),
    "a loud key": ([("\x1b[31m", "x")], "the key '\\x1b[31m'"),
    "a key of a megabyte": ([("k" * 1_000_000, "x")], "kkk"),
    "an empty key": ([("", "x")], "the key ''"),
    "two locations": ([("location", "w.bin")], "the key 'location' twice"),
    "two offsets": ([("offset", "0"), ("offset", "0")], "the key 'offset' twice"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_that_make_no_sense(name: str, folder: Path) -> None:
    entries, words = ENTRIES[name]
    kept = outside(None if name == "no location" else "w.bin", *entries)
    refused(saved(as_initialiser(kept), folder), BadTeacherFile, words)


def test_a_file_that_is_too_short(folder: Path) -> None:
    (folder / "w.bin").write_bytes(W.tobytes()[:-1])
    path = saved(as_initialiser(outside("w.bin")), folder)
    refused(path, BadTeacherFile, "lie outside their file (48 bytes from 0 of 47)")


@pytest.mark.parametrize("dims", [[-4, 3], [2**62, 2**62], [1 << 20, 1 << 20], [2] * 10_000])
def test_shapes_that_no_file_holds(dims: list[int], folder: Path) -> None:
    kept = outside("w.bin")
    kept.dims[:] = dims
    refused(saved(as_initialiser(kept), folder), BadTeacherFile, "external data of 'far\\naway'")


def test_more_external_data_than_any_teacher_has(folder: Path) -> None:
    os.truncate(folder / "w.bin", 17 << 30)  # a hole
    refused(saved(as_initialiser(outside("w.bin")), folder), UnsupportedTeacher, "more than 16 GiB")


def test_many_tensors_on_the_same_bytes_count_each(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(as_initialiser(outside("w.bin")), folder)
    model = onnx.load(path, load_external_data=False)
    tensors = [t for _ in range(3) for t in model.graph.initializer if t.name == FAR]
    with pytest.raises(UnsupportedTeacher, match="more than"):
        external.read_external([outside("w.bin") for _ in tensors], path, 100)


def test_strings_are_not_kept_outside(folder: Path) -> None:
    kept = outside("w.bin", array=np.zeros(48, np.uint8))
    kept.data_type = TensorProto.STRING
    refused(saved(as_initialiser(kept), folder), BadTeacherFile)


def test_a_name_that_is_no_text(folder: Path) -> None:
    model = as_initialiser(outside("../secret.bin")).SerializeToString()
    refused(saved(model.replace(FAR.encode(), b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"), folder), BadTeacherFile)
    model = as_initialiser(outside("secret")).SerializeToString()
    refused(saved(model.replace(b"secret", b"\xff\xfe\xfd\xfc\xfb\xfa"), folder), BadTeacherFile)


# --- what is as it should be --------------------------------------------------------------------------------

GOOD = [place for place in PLACES if place is not in_a_list_of_tensors]


@pytest.mark.parametrize("place", GOOD)
def test_data_beside_the_model(place: Callable[[TensorProto], onnx.ModelProto], folder: Path) -> None:
    """Compared with the same model in one file: not all runtimes read all of these places."""
    kept = outside("w.bin")
    apart = Teacher.load(saved(place(kept), folder))
    kept = tensor(W, FAR)
    together = saved(place(kept), folder, "together.onnx")
    answers_as_its_file(together)
    assert apart.model == Teacher.load(together).model


@pytest.mark.parametrize(
    ("location", "before", "entries"),
    [
        ("w.bin", 0, []),
        ("./w.bin", 0, [("offset", "0"), ("length", "48")]),
        ("a/w.bin", 0, [("length", "48")]),
        ("a/b/ü w.bin", 0, [("checksum", "0" * 40)]),
        ("w.bin", 4096, [("offset", "4096"), ("length", "48")]),
        ("w.bin", 5, [("offset", "5")]),
    ],
)
def test_offsets_lengths_and_folders(location: str, before: int, entries: list[tuple[str, str]], folder: Path) -> None:
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    (folder / location).write_bytes(bytes(before) + W.tobytes() + b"rest")
    path = saved(as_initialiser(outside(location, *entries)), folder)
    answers_as_its_file(path)


def test_the_bytes_outside_are_part_of_the_digest(folder: Path) -> None:
    path = saved(as_initialiser(outside("w.bin", ("length", "48"))), folder)
    first = Teacher.load(path).facts
    assert first.size_bytes == path.stat().st_size + 48
    assert Teacher.load(path).facts == first
    (folder / "w.bin").write_bytes((W * 2).tobytes())
    second = Teacher.load(path).facts
    (folder / "w.bin").write_bytes((W * 2).tobytes() + b"unused")
    third = Teacher.load(path).facts
    assert len({first.digest, second.digest, third.digest}) == 3


def test_a_linked_model_finds_its_data_beside_the_link(folder: Path, tmp_path: Path) -> None:
    """The folder is that of the path that was given; data beside the link's target are not looked for."""
    saved(as_initialiser(outside("w.bin")), folder)
    link = tmp_path / "elsewhere" / "t.onnx"
    link.symlink_to("../model/t.onnx")
    refused(link, BadTeacherFile, "missing or a link")


def test_as_the_libraries_write_it(folder: Path) -> None:
    rng = np.random.default_rng(1)
    weights = {"A": rng.normal(size=(4, 64)).astype(np.float32), "B": rng.normal(size=(64, 3)).astype(np.float32)}
    nodes = parsed("a = MatMul(x, A) r = Relu(a) y = MatMul(r, B)")
    for count, all_in_one in enumerate((True, False)):
        path = folder / f"saved{count}.onnx"
        onnx.save(
            made(*nodes, weights=weights),
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=all_in_one,
            location="saved.data" if all_in_one else None,
            size_threshold=0,
        )
        assert load(path).size_bytes > path.stat().st_size
        answers_as_its_file(path)


def test_low_precision_beside_the_model(folder: Path) -> None:
    (folder / "h.bin").write_bytes(W.astype(np.float16).tobytes())
    kept = outside("h.bin", array=W.astype(np.float16))
    model = made(N("Cast", [FAR], ["w"], to=1), "y = MatMul(x, w)", weights={FAR: kept})
    answers_as_its_file(saved(model, folder))


def test_the_graph_that_all_of_these_are_made_from(folder: Path) -> None:
    answers_as_its_file(saved(made(SCORES), folder))
    assert value("x", "batch", 4).name == "x"
