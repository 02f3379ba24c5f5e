"""Every form in which probes are kept: taken as what it is, or refused by name with what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxcake.core.errors import OnnxcakeError, ProbeError
from onnxcake.evaluate import probes
from onnxcake.evaluate.probes.parts import Probe, Takes
from onnxcake.teacher.signature import OutputKind, Signature

R = np.random.default_rng(5)
N, CLASSES = 9, 3
LABELS = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2])
PICTURES = R.normal(size=(N, 3, 5, 4)).astype(np.float32)
ROWS = R.normal(size=(N, 4)).astype(np.float32)
IDS = R.integers(-3, 3, (N, 4))


def of(shape: tuple[int, ...], dtype: str = "float32", kind: OutputKind = "logits", **more: Any) -> Signature:
    return Signature("image", shape, "scores", kind, CLASSES, input_dtype=dtype, **more)


IMAGE, ROW = of((3, 5, 4)), of((4,))


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "p.npz", **arrays)
    return folder / "p.npz"


def refused(path: Path, words: Sequence[str], signature: Signature, **more: Any) -> None:
    with pytest.raises(ProbeError) as caught:
        probes.load(path, signature, **more)
    text = str(caught.value)
    assert type(caught.value) is ProbeError and caught.value.exit_code == 2
    assert all(word in text for word in words), text
    assert caught.value.remedy.endswith(".") and path.name in caught.value.where


# --- labels ------------------------------------------------------------------------------------------------

EYE = np.eye(CLASSES)[LABELS]
NAMES = ("cat", "dog", "Eel")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (LABELS, ""),
        (LABELS[:, None], ""),
        (LABELS.astype(np.uint64), ""),
        (LABELS.astype(np.float64), ""),
        (LABELS[:, None].astype(np.float16), ""),
        (LABELS.astype(">i2"), ""),
        (LABELS.astype(str), ""),
        (EYE, "one-hot"),
        (EYE.astype(bool), "one-hot"),
        (np.array(NAMES)[LABELS], "file's order"),
        (np.char.upper(np.array(NAMES))[LABELS], "file's order"),
        (np.array(NAMES)[LABELS].astype("S"), "file's order"),
    ],
)
def test_labels_taken(labels: Any, told: str, tmp_path: Path) -> None:
    probe = probes.load(saved(tmp_path, image=ROWS, y_test=labels), ROW, class_names=NAMES)
    assert probe.labels is not None and probe.labels.dtype == np.int64 and np.array_equal(probe.labels, LABELS)
    assert told in " ".join(probe.notes) and bool(probe.notes) == bool(told)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS + 1, ["go from 1 to 3", "has 3 classes", "subtract 1"]),
        (LABELS - 1, ["go from -1 to 1", "no label"]),
        (LABELS.astype(np.uint64) + 2**63, ["has 3 classes"]),
        (LABELS + 0.5, ["'y'", "fractions"]),
        (np.where(LABELS == 1, np.nan, LABELS), ["'y'", "not finite"]),
        (EYE + 0.1, ["'y'", "fractions"]),
        (np.eye(5, dtype=int)[LABELS], ["'y'", "[9, 5]", "one-hot"]),
        (np.ones((N, 3), int), ["'y'", "one-hot"]),
        (LABELS[:5], ["'y'", "[5]", "9 inputs"]),
        (np.int64(2), ["'y'", "[]", "9 inputs"]),
        (np.zeros((N, 3, 3), int), ["'y'", "[9, 3, 3]"]),
        (np.array(["cat", "dog", "cow"])[LABELS], ["'y'", "'cow'", "'dog'"]),
        (np.array(NAMES, object)[LABELS], ["'y'", "Python objects", "pickle"]),
        (LABELS.astype(complex), ["'y'", "complex128"]),
    ],
)
def test_labels_refused(labels: Any, words: list[str], tmp_path: Path) -> None:
    refused(saved(tmp_path, image=ROWS, y=labels), words, ROW, class_names=NAMES)


def test_text_labels_are_refused_where_the_file_does_not_name_its_classes(tmp_path: Path) -> None:
    path = saved(tmp_path, image=ROWS, y=np.array(NAMES)[LABELS])
    refused(path, ["'y'", "does not name its classes"], ROW)
    refused(path, ["does not name its classes"], ROW, class_names=NAMES[:2])


def test_classes_that_the_file_numbers_its_own_way(tmp_path: Path) -> None:
    path = saved(tmp_path, image=ROWS, y=LABELS * 10 + 10)
    probe = probes.load(path, ROW, class_names=("10", "20", "30"))
    assert probe.labels is not None and np.array_equal(probe.labels, LABELS) and "10 to 30" in probe.notes[0]
    refused(path, ["go from 10 to 30"], ROW, class_names=("10", "20", "31"))


@pytest.mark.parametrize(
    ("kind", "labels", "fine"),
    [
        ("multilabel_logits", EYE, True),
        ("multilabel_logits", np.ones((N, 3), bool), True),
        ("multilabel_logits", LABELS, False),
        ("multilabel_logits", EYE * 2, False),
        ("multilabel_logits", EYE[:, :2], False),
        ("binary_logit", LABELS % 2, True),
        ("binary_logit", (LABELS % 2 == 1)[:, None], True),
        ("binary_logit", np.eye(2)[LABELS % 2], True),
        ("binary_logit", LABELS % 2 * 2 - 1, False),
    ],
)
def test_labels_of_other_tasks(kind: OutputKind, labels: Any, fine: bool, tmp_path: Path) -> None:
    signature = Signature("x", (4,), "y", kind, 2 if kind.startswith("binary") else 3)
    path = saved(tmp_path, x=ROWS, labels=labels)
    if not fine:
        refused(path, ["'labels'"], signature)
        return
    found = probes.load(path, signature).labels
    assert found is not None
    wanted = labels if kind.startswith("multilabel") else LABELS % 2
    assert np.array_equal(found, wanted)


def test_labels_of_unlike_forms_in_two_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=ROWS, y=LABELS)
    np.savez(tmp_path / "b.npz", x=ROWS, y=EYE)
    both = probes.load(tmp_path, ROW).labels
    assert both is not None and np.array_equal(both, np.concatenate([LABELS, LABELS]))
    np.savez(tmp_path / "b.npz", x=ROWS, y=np.zeros((N, 3), int))
    with pytest.raises(ProbeError, match="one-hot") as caught:
        probes.load(tmp_path, ROW)
    assert caught.value.where.endswith("b.npz")


# --- arrays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8"])
@pytest.mark.parametrize("given", ["int64", "int16", ">i4", "float32", "float64"])
def test_whole_numbers_for_a_file_that_takes_them(given: str, dtype: str, tmp_path: Path) -> None:
    probe = probes.load(saved(tmp_path, ids=IDS.astype(given), y=LABELS), of((4,), dtype))
    fed = probe.feeds["image"]
    assert fed.dtype == dtype and np.array_equal(fed, IDS) and not probe.notes
    assert probe.inputs.dtype == np.float32 and np.array_equal(probe.inputs, IDS)


def test_large_whole_numbers_stay_as_they_are(tmp_path: Path) -> None:
    ids = np.array([[2**53 + 1, -(2**62) - 1]])
    probe = probes.load(saved(tmp_path, x=ids), of((2,), "int64"))
    assert np.array_equal(probe.feeds["image"], ids) and "above 16,777,216 are rounded" in probe.notes[0]
    assert not probes.load(saved(tmp_path, x=np.array([[2**24, -5]])), of((2,), "int64")).notes


@pytest.mark.parametrize(
    ("array", "dtype", "words"),
    [
        (IDS + 200, "int8", ["goes from", "int8, -128 to 127"]),
        (IDS, "uint8", ["-3", "uint8, 0 to 255"]),
        (IDS + 0.25, "int64", ["fractions", "int64"]),
        (np.full((N, 4), 1e30), "int64", ["int64"]),
        (np.full((N, 4), np.nan), "int64", ["not finite", "sample 0"]),
        (IDS, "bool", ["bool, 0 to 1"]),
        (np.full((N, 4), 1e6), "float16", ["not finite in float16"]),
        (np.full((N, 4), "x"), "float32", ["no single array of numbers"]),
        (IDS.astype("M8[D]"), "float32", ["no single array of numbers"]),
    ],
)
def test_numbers_that_the_file_cannot_take(array: Any, dtype: str, words: list[str], tmp_path: Path) -> None:
    refused(saved(tmp_path, x=array), words, of((4,), dtype))


def test_bools_and_texts_for_files_that_take_them(tmp_path: Path) -> None:
    mask = IDS > 0
    assert np.array_equal(probes.load(saved(tmp_path, x=mask * 1.0), of((4,), "bool")).feeds["image"], mask)
    words = np.array(["a", "bb"])[mask * 1]
    assert np.array_equal(
        probes.load(
            saved(tmp_path, x=words), of((4,), "float32"), [Takes("words", (4,), "string")], inner=lambda feeds: ROWS
        ).feeds["words"],
        words,
    )


def test_raw_bytes_for_a_file_of_other_values(tmp_path: Path) -> None:
    """Whole numbers are used as they are, unless the range says that they cannot be what is meant."""
    raw = R.integers(0, 256, (N, 3, 5, 4), dtype=np.uint8)
    path = saved(tmp_path, image=raw, y=LABELS)
    for signature in (IMAGE, of((3, 5, 4), range=(0.0, 255.0))):
        probe = probes.load(path, signature)
        assert np.array_equal(probe.inputs, raw) and "used as they are" in probe.notes[0]
    refused(path, ["255", "0 to 1"], of((3, 5, 4), range=(0.0, 1.0)))
    probe = probes.load(saved(tmp_path, image=raw.astype(np.float32)), of((3, 5, 4), range=(0.0, 1.0)))
    assert "takes 0 to 1" in probe.notes[0]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (PICTURES.transpose(0, 2, 3, 1), [".transpose(0, 3, 1, 2)"]),
        (PICTURES.transpose(0, 1, 3, 2), [".transpose(0, 1, 3, 2)"]),
        (PICTURES[0], ["without a batch", "[None]"]),
        (PICTURES.reshape(N, -1), [".reshape(-1, 3, 5, 4)"]),
        (PICTURES[:0], ["float32[0, 3, 5, 4]"]),
    ],
)
def test_other_layouts_are_refused_with_the_remedy(array: Any, words: list[str], tmp_path: Path) -> None:
    refused(saved(tmp_path, x=array, y=LABELS[: len(array)]), words, IMAGE)


def test_sixteen_bits_of_another_kind(tmp_path: Path) -> None:
    """safetensors keeps torch's bfloat16."""
    import torch
    from safetensors.torch import save_file

    rounded = torch.from_numpy(ROWS).bfloat16()
    save_file({"x": rounded}, tmp_path / "p.safetensors")
    assert np.array_equal(probes.load(tmp_path / "p.safetensors", ROW).inputs, rounded.float().numpy())


def test_an_array_of_the_inputs_name_is_the_one_that_is_meant(tmp_path: Path) -> None:
    path = saved(tmp_path, image=PICTURES, other=PICTURES + 1)
    assert np.array_equal(probes.load(path, IMAGE).inputs, PICTURES)
    refused(saved(tmp_path, image=PICTURES.transpose(0, 2, 3, 1), other=PICTURES), [".transpose(0, 3, 1, 2)"], IMAGE)


def test_large_files_are_read_in_one_piece(tmp_path: Path) -> None:
    """In memory as plain rows, however they were kept: what is computed with them is the same to the bit."""
    probe = probes.load(saved(tmp_path, image=np.asfortranarray(PICTURES)), IMAGE)
    assert probe.inputs.flags.c_contiguous and probe.feeds["image"] is probe.inputs


def test_what_the_remedy_says_works(tmp_path: Path) -> None:
    last = PICTURES.transpose(0, 2, 3, 1)
    assert np.array_equal(probes.load(saved(tmp_path, x=last.transpose(0, 3, 1, 2)), IMAGE).inputs, PICTURES)


def test_what_else_lies_in_an_archive(tmp_path: Path) -> None:
    import zipfile

    path = saved(tmp_path, **{"data/image": ROWS, "data/y": LABELS, "files": np.array(list("abcdefghi"))})
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("README.txt", "data/", "__MACOSX/data/._image.npy", "data/.DS_Store", "x.npy.txt"):
            archive.writestr(name, b"hi")
    for file in (path, path.rename(tmp_path / "p.ZIP")):
        if file.exists():
            probe = probes.load(file, ROW)
            assert np.array_equal(probe.inputs, ROWS) and probe.labels is not None
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("cat/1.JPG", "hi")
    refused(tmp_path / "pictures.zip", ["'cat/1.JPG'", "Unpack it"], ROW)
    with zipfile.ZipFile(tmp_path / "none.npz", "w") as archive:
        archive.writestr("README.txt", "hi")
    refused(tmp_path / "none.npz", ["it has nothing"], ROW)


def test_an_archive_that_unpacks_to_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((1000, 1000), np.float32))
    monkeypatch.setattr("onnxcake.evaluate.probes.archives._SHARE", 1e-9)
    refused(path, ["GB of memory are free"], of((1000,)))


# --- several inputs ----------------------------------------------------------------------------------------

COLUMNS = [Takes("age", (1,)), Takes("city id", (1,), "int64"), Takes("member", (1,), "bool")]
FED = {
    "age": R.normal(size=(N, 1)).astype(np.float32),
    "city id": R.integers(0, 99, (N, 1)),
    "member": R.integers(0, 2, (N, 1)).astype(bool),
}


def merged(feeds: Any) -> Any:
    return np.concatenate([feeds[takes.name].astype(np.float32) for takes in COLUMNS], 1)


def several(path: Path) -> Probe:
    probe = probes.load(path, of((3,)), COLUMNS, inner=merged)
    assert probe.labels is not None and np.array_equal(probe.labels, LABELS)
    assert list(probe.feeds) == list(FED)
    for takes in COLUMNS:
        assert probe.feeds[takes.name].dtype == takes.dtype
        assert np.array_equal(probe.feeds[takes.name], FED[takes.name])
    assert np.array_equal(probe.inputs, merged(FED))
    return probe


def test_several_inputs_are_matched_by_name(tmp_path: Path) -> None:
    digests = {
        several(saved(tmp_path, y=LABELS, **FED)).digest,
        several(saved(tmp_path, y=LABELS, **{name: array[:, 0] for name, array in FED.items()})).digest,
        several(saved(tmp_path, y=LABELS, **{name: array.astype(float) for name, array in FED.items()})).digest,
    }
    assert len(digests) == 1
    swapped = FED | {"age": FED["age"][::-1]}
    other = probes.load(saved(tmp_path, y=LABELS, **swapped), of((3,)), COLUMNS, inner=merged)
    assert other.digest not in digests


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"age": None}, ["no array 'age'", "'city id'"]),
        ({"age": None, "Age": FED["age"]}, ["no array 'age'", "did you mean 'Age'?"]),
        ({"age": FED["age"][:5]}, ["not equally many", "'age' 5"]),
        ({"age": np.zeros((N, 2))}, ["'age' is float64[9, 2]", "float32 [n, 1]"]),
        ({"city id": FED["city id"] + 0.5}, ["'city id'", "fractions"]),
        ({"member": FED["member"] + 1}, ["'member'", "bool"]),
        ({"age": np.array(1.0)}, ["'age' is float64[]"]),
    ],
)
def test_several_inputs_refused_by_name(changed: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    arrays = {name: array for name, array in (FED | changed).items() if array is not None}
    refused(saved(tmp_path, **arrays), words, of((3,)), takes=COLUMNS, inner=merged)


def test_sizes_that_the_file_leaves_open(tmp_path: Path) -> None:
    takes = [Takes("ids", (None,), "int64"), Takes("mask", (None,), "int64")]
    np.savez(tmp_path / "a.npz", ids=IDS, mask=IDS)
    load: Callable[[], Probe] = lambda: probes.load(tmp_path, of((8,)), takes, inner=lambda feeds: ROWS)  # noqa: E731
    assert load().feeds["ids"].shape == (N, 4)
    np.savez(tmp_path / "b.npz", ids=IDS[:, :3], mask=IDS[:, :3])
    with pytest.raises(ProbeError, match=r"shape \[3\], those of a.npz \[4\]"):
        load()


# --- tables ------------------------------------------------------------------------------------------------


def table(folder: Path, lines: Sequence[str], name: str = "t.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder / name


def cells(array: Any, between: str = ",") -> list[str]:
    return [between.join(str(value) for value in row) for row in array]


WITH = np.concatenate([ROWS.astype(object), LABELS[:, None].astype(object)], 1)
FIRST = np.concatenate([LABELS[:, None].astype(object), ROWS.astype(object)], 1)


@pytest.mark.parametrize(
    ("lines", "name", "labelled"),
    [
        (cells(ROWS), "t.csv", False),
        (["a,b,c,d", *cells(ROWS)], "t.csv", False),
        (["0,1,2,3", *cells(ROWS)], "t.csv", False),
        (["x,y,z,w", *cells(ROWS)], "t.csv", False),
        (cells(WITH), "t.csv", True),
        (["a,b,c,d,label", *cells(WITH)], "t.csv", True),
        (["label,a,b,c,d", *cells(FIRST)], "t.csv", True),
        (["Target;a;b;c;d", *cells(FIRST, ";")], "t.CSV", True),
        (["a\tb\tc\td\tlabel", *cells(WITH, "\t")], "t.tsv", True),
        ([",a,b,c,d,y", *[f"{n},{row}" for n, row in enumerate(cells(WITH))]], "t.csv", True),
        ([",0,1,2,3", *[f"{n},{row}" for n, row in enumerate(cells(ROWS))]], "t.csv", False),
        (["# a, b, c, d", "", *cells(ROWS, ", "), ""], "t.csv", False),
        (['"a, b","c","d","e","class"', *cells(WITH)], "t.csv", True),
        ([*[f"{row},{NAMES[n]}" for row, n in zip(cells(ROWS), LABELS, strict=True)]], "t.csv", True),
        (["a,b,c,d,y", *[f"{row},{float(n)}" for row, n in zip(cells(ROWS), LABELS, strict=True)]], "t.csv", True),
        (cells(ROWS, " "), "t.csv", False),
        (["# a b c d", *cells(ROWS, " ")], "t.csv", False),
        (["# made by a program, 2024-05-01, 12:00", "# second remark", "a,b,c,d", *cells(ROWS)], "t.csv", False),
        (["# remark; without, end", *cells(ROWS, ";")], "t.csv", False),
        (["# some words of no table", "# a,b,c,d", *cells(ROWS)], "t.csv", False),
        (["index,a,b,c,d", *[f"{n + 7},{row}" for n, row in enumerate(cells(ROWS))]], "t.csv", False),
    ],
)
def test_tables_taken(lines: list[str], name: str, labelled: bool, tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        probe = probes.load(table(tmp_path, lines, name, encoding), ROW, class_names=NAMES)
        assert np.array_equal(probe.inputs, ROWS)
        assert (probe.labels is not None) == labelled
        assert not labelled or np.array_equal(probe.labels, LABELS)
    np.savez(tmp_path / "same.npz", x=ROWS, **({"y": LABELS} if labelled else {}))
    assert probe.digest == probes.load(tmp_path / "same.npz", ROW).digest, "of the numbers, however they are kept"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a,b,c,d", "1,2,3,4", "1,,3,4"], ["line 3", "column 'b'", "no value"]),
        (["1,2,3,4", "1,2,NA,4"], ["line 2", "column 3", "no value"]),
        (["a,b,c,d", "1,2,3,4", "", "1,2,3,x1"], ["line 4", "column 'd'", "'x1'", "no number"]),
        (["1,2,3,4", "1,2,3,inf"], ["line 2", "column 4", "not finite"]),
        (["1,2,3,4", "1,2,3,1_0"], ["line 2", "'1_0'"]),
        (["a,b,c,d,y", f"1,2,3,4,{2**63}"], ["line 2", "column 'y'", "too large"]),
        (["1,2,3,4", "1,2,3"], ["line 2 has 3 cells", "line 1 has 4"]),
        (["1,2,3", "4,5,6"], ["3 columns", "4 features"]),
        (["1,2,3,4,0,1"], ["6 columns", "4 features"]),
        (["a,b,c,label", "1,2,3,0"], ["4 columns", "'label'"]),
        (["1,2,3,4,5.5"], ["column 5", "fractions"]),
        (["a,b,c,d,y", "1,2,3,4,3"], ["column 'y'", "go from 3 to 3"]),
        (["a,b,c,d,y", "1,2,3,4,cow"], ["column 'y'", "'cow'"]),
        (["a,b,c,d,y", "1,2,3,4,"], ["line 2", "column 'y'", "no value"]),
        (["1,2x,3,4", "1,2,3,4"], ["line 1", "'2x'"]),
        (["a,b,c,d"], ["columns alone"]),
        ([""], ["empty"]),
        (["1;2;3,5;4", "1;2;3;4"], ["'3,5'"]),
    ],
)
def test_tables_refused(lines: list[str], words: list[str], tmp_path: Path) -> None:
    refused(table(tmp_path, lines), words, ROW, class_names=NAMES)


@pytest.mark.parametrize("line", ["0,1,2,3", "index,b,c,d\n0,1,2,3"])
def test_features_that_look_like_numbers_of_rows_or_columns(line: str, tmp_path: Path) -> None:
    assert np.array_equal(probes.load(table(tmp_path, [line]), ROW).inputs, [[0, 1, 2, 3]])


def test_a_first_row_with_a_gap_is_no_header(tmp_path: Path) -> None:
    refused(table(tmp_path, ["1,,3,4", "1,2,3,4"]), ["line 1", "column 2", "no value"], ROW)


def test_tables_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"1,2,3,\xff\xfe\n")
    refused(tmp_path / "t.csv", ["UTF-8"], ROW)
    (tmp_path / "t.csv").write_text('1,2,3,"' + "4" * 200_000)
    refused(tmp_path / "t.csv", ["cannot be read"], ROW)


def test_a_table_for_a_teacher_of_pictures(tmp_path: Path) -> None:
    grey = R.integers(0, 256, (N, 1, 3, 2))
    rows = np.concatenate([LABELS[:, None], grey.reshape(N, 6)], 1)
    lines = ["label," + ",".join(f"p{n}" for n in range(6)), *cells(rows)]
    probe = probes.load(table(tmp_path, lines), of((1, 3, 2)))
    assert np.array_equal(probe.inputs, grey) and np.array_equal(probe.labels, LABELS)  # type: ignore[arg-type]
    refused(table(tmp_path, cells(PICTURES.reshape(N, -1))), ["[n, 3, 5, 4]"], IMAGE)


def test_a_folder_of_tables(tmp_path: Path) -> None:
    table(tmp_path, ["a,b,c,d,y", *cells(WITH[:4])], "1.csv")
    table(tmp_path, ["a,b,c,d,y", *cells(WITH[4:])], "2.csv")
    probe = probes.load(tmp_path, ROW)
    assert np.array_equal(probe.inputs, ROWS) and np.array_equal(probe.labels, LABELS)  # type: ignore[arg-type]
    table(tmp_path, ["a,b,d,c,y", *cells(WITH[4:])], "2.csv")
    with pytest.raises(ProbeError, match="are not those of 1"):
        probes.load(tmp_path, ROW)
    np.save(tmp_path / "x.npy", ROWS)
    refused(tmp_path, ["arrays (x.npy)", "tables (1.csv)"], ROW)


def test_a_column_for_each_input(tmp_path: Path) -> None:
    rows = [
        f"{a},{c},{m},ignored,{y}"
        for a, c, m, y in zip(*(FED[takes.name][:, 0] for takes in COLUMNS), LABELS, strict=True)
    ]
    probe = several(table(tmp_path, ["age,city id,member,comment,label", *rows]))
    assert "column 'comment' is not used" in probe.notes
    order = [row.replace("True", "1").replace("False", "0").split(",") for row in rows]
    numbers = [f"{y},{m},{c},{a}" for a, c, m, _, y in order]
    several(table(tmp_path, ["y,Member,city id,age", *numbers]))
    more: dict[str, Any] = {"takes": COLUMNS, "inner": merged}
    refused(table(tmp_path, ["age,city_id,member", "1,2,1"]), ["no column 'city id'", "'city_id'?"], of((3,)), **more)
    refused(table(tmp_path, ["1,2,1", "2,3,0"]), ["does not name the columns"], of((3,)), **more)
    refused(table(tmp_path, ["age,city id,member", "1,2.5,1"]), ["'city id'", "fractions"], of((3,)), **more)


# --- pictures ----------------------------------------------------------------------------------------------

BYTES = R.integers(0, 256, (5, 4, 3), dtype=np.uint8)
RANGED = of((3, 5, 4), range=(0.0, 1.0))


def picture(folder: Path, pixels: Any = BYTES, name: str = "p.png", mode: str | None = None, **more: Any) -> Path:
    image = Image.fromarray(pixels)
    folder.mkdir(exist_ok=True, parents=True)
    (image if mode is None else image.convert(mode)).save(folder / name, **more)
    return folder / name


def test_pictures_take_the_teachers_values_and_layout(tmp_path: Path) -> None:
    path, scaled = picture(tmp_path), BYTES.astype(np.float64) / 255
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normal = ((scaled - mean) / std).transpose(2, 0, 1)
    for signature, wanted in [
        (RANGED, scaled.transpose(2, 0, 1)),
        (of((3, 5, 4), range=(-1.0, 1.0)), scaled.transpose(2, 0, 1) * 2 - 1),
        (of((3, 5, 4), range=(0.0, 1.0), mean=mean, std=std), normal),
        (of((3, 5, 4), range=(0.0, 255.0), mean=(127.5,), std=(128.0,)), (BYTES.transpose(2, 0, 1) - 127.5) / 128),
        (of((5, 4, 3), range=(0.0, 1.0), channels_last=True), scaled),
        (of((5, 4, 3), range=((0.0, 1.0, -2.0), 3.0), channels_last=True), scaled * (3, 2, 5) + (0, 1, -2)),
        (of((5, 4, 3), range=(0.0, 1.0), mean=mean, std=std, channels_last=True), normal.transpose(1, 2, 0)),
        (of((5, 4, 3), range=(0.0, 1.0)), scaled),
        (of((3, 5, 4), "uint8", range=(0.0, 255.0)), BYTES.transpose(2, 0, 1)),
        (of((5, 4, 3), "int8", range=(-128.0, 127.0), channels_last=True), BYTES.astype(int) - 128),
    ]:
        probe = probes.load(path, signature)
        np.testing.assert_allclose(probe.inputs[0], wanted, rtol=0, atol=1e-5)
        assert probe.feeds["image"].dtype == signature.input_dtype and len(probe.inputs) == 1


def test_pictures_of_every_mode(tmp_path: Path) -> None:
    grey = BYTES[..., 0]
    colour, plain = RANGED, of((1, 5, 4), range=(0.0, 1.0))
    alpha = np.concatenate([BYTES, R.integers(0, 256, (5, 4, 1), dtype=np.uint8)], 2)
    three = np.repeat(grey[None], 3, 0) / 255
    deep = picture(tmp_path, grey.astype(np.uint16) * 257, "deep.png")
    bits = picture(tmp_path, grey > 127, "bits.png")
    for path, signature, wanted in [
        (picture(tmp_path, grey, "l.png"), plain, grey[None] / 255),
        (picture(tmp_path, grey, "l.png"), colour, three),
        (picture(tmp_path, grey, "la.png", "LA"), colour, three),
        (deep, plain, grey[None] / 255),
        (deep, colour, three),
        (bits, plain, (grey > 127)[None] * 1.0),
        (picture(tmp_path, alpha, "rgba.png"), colour, BYTES.transpose(2, 0, 1) / 255),
        (picture(tmp_path, BYTES, "p.bmp"), colour, BYTES.transpose(2, 0, 1) / 255),
        (picture(tmp_path, BYTES, "p.webp", lossless=True), colour, BYTES.transpose(2, 0, 1) / 255),
        (picture(tmp_path, np.full((5, 4, 3), 255, np.uint8), "cmyk.JPG", "CMYK"), colour, np.ones((3, 5, 4))),
        (picture(tmp_path, np.full((5, 4, 3), 51, np.uint8), "p8.png", "P"), colour, np.full((3, 5, 4), 0.2)),
    ]:
        found = probes.load(path, signature).inputs[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.021, err_msg=path.name)


def test_pictures_of_other_sizes_are_cut_around_their_centre(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 9:21] = 200  # the middle, eight columns to ten rows, and what is beside it
    probe = probes.load(picture(tmp_path, wide), RANGED)
    np.testing.assert_allclose(probe.inputs, 200 / 255, atol=1e-6)
    assert "4:5" in probe.notes[0] and "4×5" in probe.notes[0] and "bilinear" in probe.notes[0]
    fine = np.indices((500, 400)).sum(0) % 2 * 255  # a board of single pixels is grey from afar: antialiased
    np.testing.assert_allclose(probes.load(picture(tmp_path, fine.astype(np.uint8)), RANGED).inputs, 0.5, atol=0.02)


def test_a_turned_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it
    path = picture(tmp_path, np.rot90(BYTES).copy(), exif=exif)
    np.testing.assert_allclose(probes.load(path, RANGED).inputs[0], BYTES.transpose(2, 0, 1) / 255, atol=1e-6)


def shades(folder: Path, names: Sequence[str], count: int = 2) -> Path:
    """Class folders of plain pictures: those of the folder of place k have the shade 10 k."""
    for place, name in enumerate(names):
        for number in range(count):
            picture(folder / name, np.full((5, 4, 3), 10 * place, np.uint8), f"{number}.png")
    return folder


def test_a_flat_folder(tmp_path: Path) -> None:
    for shade, name in [(30, "b.png"), (10, "a.JPEG"), (20, "a2.png")]:
        picture(tmp_path, np.full((8, 8), shade, np.uint8), name)
    (tmp_path / "._a.png").write_bytes(b"macOS")
    (tmp_path / "README.txt").write_text("hi")
    probe = probes.load(tmp_path, RANGED)
    assert probe.labels is None
    np.testing.assert_allclose(probe.inputs.mean((1, 2, 3)) * 255, [10, 20, 30], atol=0.5)


@pytest.mark.parametrize(
    ("names", "known", "classes", "told"),
    [
        (["0", "1", "2"], (), [0, 1, 2], ""),
        (["02", "00"], (), [2, 0], ""),
        (["2"], NAMES, [2], ""),
        (["ant", "bee", "cow"], (), [0, 1, 2], "alphabetical order: 'ant' = 0, 'bee' = 1"),
        (["eel", "cat"], NAMES, [2, 0], "file's order"),
        (["c_0", "c_01", "c_2"], (), [0, 1, 2], "numbers are taken for the classes"),
        (["c2", "c00"], (), [2, 0], "numbers are taken for the classes"),
        (["n0144", "n0155", "n0166"], (), [0, 1, 2], "alphabetical order: 'n0144' = 0"),
        (["Cat"], ("cat", "Cat", "CAT"), [1], "file's order"),
        (["20", "10"], ("10", "20", "30"), [1, 0], "10 to 30"),
    ],
)
def test_class_folders(names: list[str], known: tuple[str, ...], classes: list[int], told: str, tmp_path: Path) -> None:
    probe = probes.load(shades(tmp_path, names), RANGED, class_names=known)
    assert probe.labels is not None and told in " ".join(probe.notes)
    places = (probe.inputs.mean((1, 2, 3)) * 255 / 10).round().astype(int)
    by_shade = dict(zip(places.tolist(), probe.labels.tolist(), strict=True))
    assert by_shade == dict(enumerate(classes)) and len(probe.labels) == 2 * len(names)


@pytest.mark.parametrize(
    ("names", "known", "words"),
    [
        (["1", "2", "3"], (), ["go from 1 to 3", "subtract 1"]),
        (["ant", "bee"], (), ["2 class folders", "3 classes", "0 to 2"]),
        (["a", "b", "c", "d"], (), ["4 class folders", "3 classes"]),
        (["cat", "cow"], NAMES, ["'cow'", "'cat'"]),
        (["c1", "c2", "c3"], (), ["go from 1 to 3", "subtract 1"]),
        (["crane"], ("crane", "maillot", "crane"), ["'crane'", "one of the file's classes"]),
    ],
)
def test_class_folders_refused(names: list[str], known: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    refused(shades(tmp_path, names, 1), words, RANGED, class_names=known)


def test_folders_that_are_no_class_folders(tmp_path: Path) -> None:
    shades(tmp_path / "set" / "train", ["0", "1"], 1)
    refused(tmp_path / "set", ["folders of folders"], RANGED)
    assert len(probes.load(tmp_path / "set" / "train", RANGED).inputs) == 2
    (tmp_path / "set" / "train" / "2").mkdir()
    with pytest.raises(ProbeError, match="without pictures"):
        probes.load(tmp_path / "set" / "train", RANGED)
    (tmp_path / "set" / "train" / "2").rmdir()
    picture(tmp_path / "set" / "train", name="loose.png")
    refused(tmp_path / "set" / "train", ["'loose.png' beside"], RANGED)
    many = of((3, 5, 4), kind="multilabel_logits", range=(0.0, 1.0))
    refused(shades(tmp_path / "many", ["0", "1"], 1), ["labels for each input"], many)


@pytest.mark.parametrize("signature", [IMAGE, ROW, of((4, 5, 4), range=(0.0, 1.0)), of((3, 5, 4), "int32")])
def test_teachers_that_take_no_pictures_or_do_not_say_how(signature: Signature, tmp_path: Path) -> None:
    pictured = signature.input_shape == (3, 5, 4)
    refused(picture(tmp_path), ["--range 0,1"] if pictured else ["numpy.savez"], signature)


def test_pictures_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pictures"
    picture(folder, name="a.png")
    (folder / "b.gif").write_bytes(b"GIF89a")
    refused(tmp_path / "pictures" / "b.gif", ["Convert it to PNG"], RANGED)
    (folder / "b.gif").unlink()
    for content in (b"", b"<html>not found</html>", picture(tmp_path).read_bytes()[:60]):
        (folder / "b.png").write_bytes(content)
        with pytest.raises(ProbeError, match="not a whole") as caught:
            probes.load(folder, RANGED)
        assert caught.value.where.endswith("b.png")
    picture(folder, name="b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    with pytest.raises(ProbeError, match="larger than 15 pixels"):
        probes.load(folder, RANGED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.webp", "p.bmp", "t.csv", "p.zip"])
def test_damage_is_an_error_or_another_probe(name: str, tmp_path: Path) -> None:
    """Never anything else than a `ProbeError`, and never a probe that does not fit."""
    signature = ROW if name[0] == "t" else RANGED
    if name == "t.csv":
        path = table(tmp_path, ["a,b,c,d,y", *cells(WITH)])
    elif name == "p.zip":
        path = saved(tmp_path, x=PICTURES, y=LABELS).rename(tmp_path / name)
    else:
        path = picture(tmp_path, name=name)
    content = path.read_bytes()
    damaged = [content[:length] for length in range(0, len(content), max(1, len(content) // 60))]
    for bit in R.choice(len(content) * 8, 240, replace=False).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        damaged.append(bytes(flipped))
    refusals = 0
    for what in damaged:
        path.write_bytes(what)
        try:
            probe = probes.load(path, signature)
        except OnnxcakeError as error:
            assert type(error) is ProbeError and error.remedy
            refusals += 1
        else:
            assert probe.inputs.shape[1:] == signature.input_shape and np.isfinite(probe.inputs).all()
            assert probe.labels is None or set(probe.labels.tolist()) <= set(range(CLASSES))
    assert refusals > 20
