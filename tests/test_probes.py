"""Probe files: what is read from each kind, and every one that does not fit is one clear error."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from onnxcake.core.errors import OnnxcakeError, ProbeError
from onnxcake.evaluate import probes
from onnxcake.evaluate.probes.parts import Probe
from onnxcake.teacher.signature import Signature

SHAPE, COUNT, CLASSES = (1, 3, 2), 6, 4
INPUTS = np.random.default_rng(0).normal(size=(COUNT, *SHAPE)).astype(np.float32)
LABELS = np.array([0, 3, 1, 2, 2, 0])


def load(path: Path, shape: tuple[int, ...], classes: int | None = None) -> Probe:
    """A probe for a teacher of this shape."""
    return probes.load(path, Signature("x", shape, "y", "logits", classes or 0))


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def refused(path: Path, words: str, classes: int | None = CLASSES) -> ProbeError:
    with pytest.raises(ProbeError) as caught:
        load(path, SHAPE, classes)
    error = caught.value
    assert words in error.what, error.what
    assert error.exit_code == 2 and path.name in error.where and error.remedy.endswith(".")
    assert str(error).replace("\n", "").isprintable() and str(error).count("\n") == 1
    return error


def same(probe: Probe, labelled: bool) -> None:
    assert probe.inputs.dtype == np.float32 and np.array_equal(probe.inputs, INPUTS)
    if labelled:
        assert probe.labels is not None and probe.labels.dtype == np.int64 and np.array_equal(probe.labels, LABELS)
    else:
        assert probe.labels is None


# --- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("images", "labels"), ("x_test", "y_test"), ("z", "a"), ("arr_0", "arr_1")])
@pytest.mark.parametrize("labelled", [True, False])
def test_npz(labelled: bool, names: tuple[str, str], tmp_path: Path) -> None:
    arrays = {names[0]: INPUTS, **({names[1]: LABELS} if labelled else {})}
    same(load(npz(tmp_path / "p.npz", **arrays), SHAPE, CLASSES), labelled)
    np.savez_compressed(tmp_path / "q.npz", **arrays)
    same(load(tmp_path / "q.npz", SHAPE), labelled)


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", INPUTS)
    same(load(tmp_path / "p.npy", SHAPE, CLASSES), False)


@pytest.mark.parametrize("labelled", [True, False])
def test_safetensors(labelled: bool, tmp_path: Path) -> None:
    save_file({"x": INPUTS, **({"y": LABELS} if labelled else {})}, tmp_path / "p.safetensors")
    same(load(tmp_path / "p.safetensors", SHAPE, CLASSES), labelled)


def test_a_folder_of_npy_files_belongs_together(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", INPUTS)
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / "README.txt").write_text("not a probe")
    same(load(tmp_path, SHAPE, CLASSES), True)


def test_a_folder_of_other_files_is_joined_in_the_order_of_names(tmp_path: Path) -> None:
    npz(tmp_path / "part-2.npz", x=INPUTS[4:], y=LABELS[4:])
    save_file({"x": INPUTS[:4], "y": LABELS[:4]}, tmp_path / "part-1.safetensors")
    same(load(tmp_path, SHAPE, CLASSES), True)


@pytest.mark.parametrize("kind", ["float64", "float16", ">f4", ">f8"])
def test_any_floating_point_numbers(kind: str, tmp_path: Path) -> None:
    probe = load(npz(tmp_path / "p.npz", x=INPUTS.astype(kind)), SHAPE)
    assert probe.inputs.dtype == np.dtype("float32") and probe.inputs.dtype.isnative
    np.testing.assert_allclose(probe.inputs, INPUTS, rtol=1e-3)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint16", ">i4", "int64"])
def test_any_whole_numbers(kind: str, tmp_path: Path) -> None:
    same(load(npz(tmp_path / "p.npz", x=INPUTS, y=LABELS.astype(kind)), SHAPE, CLASSES), True)


def test_other_arrays_do_not_matter(tmp_path: Path) -> None:
    more = {"mean": np.float32(0.5), "names": np.array(["a", "b"]), "ids": np.arange(99), "wide": np.zeros((COUNT, 7))}
    same(load(npz(tmp_path / "p.npz", x=INPUTS, y=LABELS, **more), SHAPE, CLASSES), True)


def test_arrays_in_fortran_order(tmp_path: Path) -> None:
    same(load(npz(tmp_path / "p.npz", x=np.asfortranarray(INPUTS), y=LABELS), SHAPE), True)


def test_name_and_digest(tmp_path: Path) -> None:
    one = load(npz(tmp_path / "p.npz", x=INPUTS, y=LABELS), SHAPE)
    save_file({"a": INPUTS, "b": LABELS}, tmp_path / "q.safetensors")
    other = load(tmp_path / "q.safetensors", SHAPE)
    assert (one.name, other.name) == ("p.npz", "q.safetensors")
    assert one.digest == other.digest and len(one.digest) == 64, "of what it holds, not of how"
    assert one.digest == hashlib.sha256(INPUTS.tobytes() + LABELS.tobytes()).hexdigest(), "reports hang on it"
    changed = [
        load(npz(tmp_path / "r.npz", x=INPUTS), SHAPE),
        load(npz(tmp_path / "s.npz", x=INPUTS, y=LABELS[::-1]), SHAPE),
        load(npz(tmp_path / "t.npz", x=INPUTS + 1, y=LABELS), SHAPE),
    ]
    assert len({one.digest, *(probe.digest for probe in changed)}) == 4


# --- what does not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        INPUTS[:, 0],
        INPUTS.reshape(COUNT, -1),
        INPUTS.transpose(0, 2, 3, 1),
        INPUTS[0],
        INPUTS[:0],
        INPUTS.astype(complex),
        np.float32(1),
    ],
)
def test_a_wrong_shape_or_kind(array: Any, tmp_path: Path) -> None:
    error = refused(npz(tmp_path / "p.npz", x=array, y=LABELS), "no single array of numbers of shape [n, 1, 3, 2]")
    assert f"'x' {array.dtype}{list(array.shape)}" in error.what and "'y' int64[6]" in error.what


def test_two_arrays_that_could_be_the_inputs(tmp_path: Path) -> None:
    refused(npz(tmp_path / "p.npz", train=INPUTS, test=INPUTS), "no single array")


def test_two_arrays_that_could_be_the_labels(tmp_path: Path) -> None:
    refused(npz(tmp_path / "p.npz", x=INPUTS, a=LABELS, b=LABELS), "several arrays could be the labels")


def test_an_empty_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.npz", "w"):
        pass
    refused(tmp_path / "p.npz", "it has nothing")


@pytest.mark.parametrize("labels", [LABELS + 1, LABELS - 1, LABELS + 100])
def test_labels_out_of_range(labels: Any, tmp_path: Path) -> None:
    error = refused(npz(tmp_path / "p.npz", x=INPUTS, y=labels), "but the teacher has 4 classes")
    assert "from 0 to 3" in error.remedy
    assert load(tmp_path / "p.npz", SHAPE).labels is not None, "where the classes are not known"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    spoilt = INPUTS.copy()
    spoilt[2, 0, 1, 1] = value
    refused(npz(tmp_path / "p.npz", x=spoilt), "not finite")


@pytest.mark.filterwarnings("error")
def test_values_that_are_too_large_for_single_precision(tmp_path: Path) -> None:
    refused(npz(tmp_path / "p.npz", x=INPUTS.astype(np.float64) * 1e300), "not finite")


def test_parts_with_and_without_labels(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", x=INPUTS, y=LABELS)
    npz(tmp_path / "b.npz", x=INPUTS)
    refused(tmp_path, "some of the files have labels")


def test_one_bad_part_is_named(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", x=INPUTS)
    npz(tmp_path / "b.npz", x=INPUTS[:, 0])
    with pytest.raises(ProbeError) as caught:
        load(tmp_path, SHAPE)
    assert caught.value.where.endswith("b.npz")


@pytest.mark.parametrize("name", ["n" * 500, "\x1b[31m", "new\nline", "\u202e"])
def test_names_in_the_file_are_escaped(name: str, tmp_path: Path) -> None:
    save_file({name: INPUTS[0]}, tmp_path / "p.safetensors")
    assert len(str(refused(tmp_path / "p.safetensors", "no single"))) < 500


# --- what cannot be read -----------------------------------------------------------------------------------


class Trap:
    """Unpickling it leaves a mark."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, ("CANARY", "w"))


@pytest.mark.parametrize("name", ["p.npy", "p.npz"])
def test_pickles_are_not_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    refused(tmp_path / name, "not a well-formed")
    trap = np.array([Trap()], dtype=object)
    if name.endswith("npy"):
        np.save(tmp_path / name, trap)
    else:
        np.savez(tmp_path / name, x=INPUTS, y=trap)
    refused(tmp_path / name, "Python objects")
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", ["p.npz", "p.npy", "p.safetensors"])
def test_files_that_are_not_there_or_no_files(name: str, tmp_path: Path) -> None:
    refused(tmp_path / name, "No such file")
    (tmp_path / name).symlink_to("gone")
    refused(tmp_path / name, "No such file")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "not a regular file")
    refused(tmp_path / ("n" * 300 + name), "too long")
    refused(tmp_path / name / name, "Not a directory")


def test_pipes_and_dangling_links_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "probes"
    folder.mkdir()
    for make in (os.mkfifo, lambda path: path.symlink_to("gone"), Path.mkdir):
        for suffix in ("npz", "npy", "safetensors"):
            make(folder / f"p.{suffix}")
            with pytest.raises(ProbeError, match="not a regular file"):
                load(folder, SHAPE)
            if (folder / f"p.{suffix}").is_dir():
                (folder / f"p.{suffix}").rmdir()
            else:
                (folder / f"p.{suffix}").unlink()


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ""])
@pytest.mark.parametrize("content", [b"", b"text, not numbers\n1,2\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", bytes(500)])
def test_other_files(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"p{suffix}").write_bytes(content)
    refused(tmp_path / f"p{suffix}", "cannot be read")


def test_a_folder_without_probes(tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "x.txt").write_text("1,2")
    refused(tmp_path / "probes", "no .npz, .npy, .zip, .safetensors, .png, ")


def writers() -> dict[str, Callable[[Path], object]]:
    return {
        "stored.npz": lambda path: np.savez(path, x=INPUTS, y=LABELS),
        "packed.npz": lambda path: np.savez_compressed(path, x=INPUTS, y=LABELS),
        "p.npy": lambda path: np.save(path, INPUTS),
        "p.safetensors": lambda path: save_file({"x": INPUTS, "y": LABELS}, path),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", writers())
def test_damage_is_an_error_or_another_probe(name: str, tmp_path: Path) -> None:
    """Never anything else than a `ProbeError`, and never a probe that does not fit."""
    path = tmp_path / name
    writers()[name](path)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    damaged = [content[:length] for length in range(0, len(content), 7)]
    for bit in random.choice(len(content) * 8, 400, replace=False).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        damaged.append(bytes(flipped))
    refusals = 0
    for what in damaged:
        path.write_bytes(what)
        try:
            probe = load(path, SHAPE, CLASSES)
        except OnnxcakeError as error:
            assert type(error) is ProbeError and error.remedy
            refusals += 1
        else:
            assert probe.inputs.shape[1:] == SHAPE and np.isfinite(probe.inputs).all()
            assert probe.labels is None or len(probe.labels) == len(probe.inputs)
    assert refusals > len(damaged) / 3
