"""M01, M02 and M04: what is no file, no ONNX file, or larger than one can be."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refusals import SCORES, answers_as_its_file, made, refused, saved

from onnxcake.core.errors import BadTeacherFile
from onnxcake.teacher.teacher import Teacher

# --- M01: not a file ---------------------------------------------------------------------------------------


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.exists, "No such file"),
    "a folder": (Path.mkdir, "folder"),
    "a fifo": (os.mkfifo, "not a regular file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "an empty device": (lambda path: path.symlink_to("/dev/null"), "not a regular file"),
    "a socket": (a_socket, "cannot be read"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "cannot be read"),
    "a link to nowhere": (lambda path: path.symlink_to("gone"), "No such file"),
    "a link to a folder": (lambda path: path.symlink_to("."), "folder"),
}


@pytest.mark.parametrize(("make", "words"), NO_FILES.values(), ids=NO_FILES)
def test_not_a_file(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    make(tmp_path / "t.onnx")
    refused(tmp_path / "t.onnx", BadTeacherFile, words)


@pytest.mark.parametrize(
    ("name", "words"), [("t" * 300 + ".onnx", "too long"), ("t\0.onnx", "null"), ("file/t.onnx", "Not a directory")]
)
def test_names_that_no_file_has(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BadTeacherFile, match=words):
        Teacher.load(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    saved(b"x", tmp_path).chmod(0)
    refused(tmp_path / "t.onnx", BadTeacherFile, "ermission")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A file system's names are bytes."""
    path = tmp_path / os.fsdecode(b"\xff\xfe.onnx")
    saved(made(SCORES), tmp_path, path.name)
    assert Teacher.load(path).name == path.name
    path.write_bytes(b"")
    with pytest.raises(BadTeacherFile, match="empty") as caught:
        Teacher.load(path)
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_loud_name_is_escaped(tmp_path: Path) -> None:
    path = saved(b"", tmp_path, "t\x1b[31m\u202e\n.onnx")
    with pytest.raises(BadTeacherFile, match="empty") as caught:
        Teacher.load(path)
    assert str(caught.value).replace("\n  ", "").isprintable()


# --- M02: not an ONNX file ---------------------------------------------------------------------------------


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


def array_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
SAFETENSORS = (
    (64).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}          ' + bytes(4)
)
# The first bytes of a frozen GraphDef and of a SavedModel, as TensorFlow writes them.
GRAPH_DEF = b"\n\x2a\n\x01x\x12\x0bPlaceholder*\x0b\n\x05dtype\x12\x020\x01*\x0b\n\x05shape\x12\x02:\x00"
SAVED_MODEL = b"\x08\x01\x12\x34\n\x1d*\x05serve2\x062.15.0:\x0cunknown_v2.1\x12\x13\n\x11\n\x05Const\x12\x05Const"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (LFS, f"git-LFS pointer, not the model itself; fetch it with `git lfs pull` ({len(LFS)} bytes)"),
        (zipped(), "zip archive"),
        (tarred(), "tar archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"\n\n  <html>login</html>", "HTML"),
        (b"<?xml version='1.0'?><net/>", "XML"),
        (json.dumps({"model": 1}).encode(), "JSON"),
        (pickle.dumps({"a": 1}, protocol=2), "pickle"),
        (pickle.dumps({"a": 1}, protocol=4), "pickle"),
        (pickle.dumps({"a": 1}, protocol=5), "pickle"),
        (SAFETENSORS, "safetensors"),
        (array_file(), "numpy"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "GGUF"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TensorFlow Lite"),
        (b"\x1c\x00\x00\x00ORTM" + bytes(100), "onnxruntime's own format"),
        (b"%PDF-1.7\n" + bytes(100), "PDF"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "program"),
        (GRAPH_DEF, "TensorFlow graph"),
        (SAVED_MODEL, "TensorFlow SavedModel"),
        (b"This is a text, not a model.\n" * 10, "a text"),
        ("Ein Text, und länger.\n".encode() * 10, "a text"),
        (bytes(1000), "not an ONNX model"),
        (b"\xff" * 1000, "not an ONNX model"),
        (bytes(range(256)), "not an ONNX model"),
        (np.random.default_rng(0).bytes(5000), "not an ONNX model"),
    ],
)
def test_not_an_onnx_file(content: bytes, words: str, tmp_path: Path) -> None:
    refused(saved(content, tmp_path), BadTeacherFile, words)


# --- M04: sizes that a file says or has --------------------------------------------------------------------

PLAIN = made(SCORES).SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x09\x3a\xff\xff\xff\xff\x07",  # a graph of 2³¹ − 1 bytes in a file of eight
        b"\x08\x09\x3a\x80\x80\x80\x80\x10",  # of 4 GiB
        b"\x08\x09\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # of 2⁶³ − 1
        b"\x08\x09\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length that does not end
        PLAIN[:-1],
        PLAIN + b"\x3a\x7f",  # one more graph, that is not there
        PLAIN + b"\x0b",  # a group that does not end
        PLAIN + b"\x00\x00",  # field number zero
    ],
)
def test_lengths_beyond_the_file(content: bytes, tmp_path: Path) -> None:
    refused(saved(content, tmp_path), BadTeacherFile, "not an ONNX model, or a truncated one")


@pytest.mark.skipif(os.name != "posix", reason="needs files with holes")
def test_a_file_of_more_than_two_gibibytes(tmp_path: Path) -> None:
    path = saved(PLAIN, tmp_path)
    os.truncate(path, 2**31)
    refused(path, BadTeacherFile, "2,147,483,648 bytes is more than one ONNX file can hold")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs files with holes")
def test_a_file_of_just_under_two_gibibytes(tmp_path: Path) -> None:
    path = saved(PLAIN, tmp_path)
    os.truncate(path, 2**31 - 1)
    refused(path, BadTeacherFile, "not an ONNX model")


def test_fields_that_nobody_knows_are_no_harm(tmp_path: Path) -> None:
    """Protobuf passes over them, as it must: the next version of the format has more."""
    unknown = b"\xfa\x3f\x05hello"  # field 1023
    answers_as_its_file(saved(PLAIN + unknown * 1000, tmp_path))
