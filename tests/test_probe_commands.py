"""extract, verify and record take the same probes, and refuse the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from in_process import Ended, command
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

R = np.random.default_rng(3)
COUNT = 40


def network(path: Path, dtype: int, *shape: int, **metadata: str) -> Path:
    """A small network of 3 classes over inputs of a type: for pictures, with a convolution."""
    nodes = [helper.make_node("Cast", ["in"], ["x"], to=TensorProto.FLOAT)]
    wide = 4 if len(shape) == 3 else shape[0]
    weights = {"W": R.normal(size=(wide, 3)), "b": R.normal(size=3)}
    if len(shape) == 3:
        weights["K"] = R.normal(size=(4, shape[0], 3, 3))
        nodes.append(helper.make_node("Conv", ["x", "K"], ["c"]))
        nodes.append(helper.make_node("Relu", ["c"], ["r"]))
        nodes.append(helper.make_node("GlobalAveragePool", ["r"], ["g"]))
    nodes.append(helper.make_node("Flatten", ["g" if len(shape) == 3 else "x"], ["f"]))
    nodes.append(helper.make_node("Gemm", ["f", "W", "b"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("in", dtype, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def answers(teacher: Path, inputs: Any) -> Any:
    """The classes that a plain session names."""
    return ort.InferenceSession(teacher, providers=["CPUExecutionProvider"]).run(None, {"in": inputs})[0].argmax(1)


def pictures(folder: Path) -> tuple[Path, Any]:
    """Class folders of pictures of the teacher's size, and the pictures in the order of their folders and names."""
    made = R.integers(0, 256, (COUNT, 6, 6, 3), dtype=np.uint8)
    for number, pixels in enumerate(made):
        place = folder / ("ant", "bee", "cow")[number * 3 // COUNT]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:03}.png")
    return folder, made.transpose(0, 3, 1, 2) / np.float32(255)


def accuracy(ended: Ended) -> float:
    assert ended.code == 0, ended.err
    return float(ended.told["agreement"]["probe"]["teacher_accuracy"]["value"])


def test_verify_takes_them_as_a_plain_session_does(tmp_path: Path) -> None:
    labels = R.integers(0, 3, COUNT)
    convolution, table = network(tmp_path / "c.onnx", TensorProto.FLOAT, 3, 6, 6), tmp_path / "t.csv"
    folder, inputs = pictures(tmp_path / "set")
    classes = np.arange(COUNT) * 3 // COUNT
    mean, std = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])
    normalised = ["--range", "0,1", "--mean", "0.4,0.5,0.6", "--std", "0.2,0.25,0.3"]
    ended = command("verify", convolution, convolution, "--probe", folder, *normalised, "--json")
    scaled = (inputs - mean[:, None, None]) / std[:, None, None]
    assert accuracy(ended) == pytest.approx((answers(convolution, scaled) == classes).mean())
    assert "alphabetical" in " ".join(ended.told["probe"]["notes"])

    whole = network(tmp_path / "i.onnx", TensorProto.INT64, 5, names="ant,bee,cow")
    ids = R.integers(-3, 3, (COUNT, 5))
    right = (answers(whole, ids) == labels).mean()
    np.savez(tmp_path / "i.npz", x=ids, y=np.eye(3)[labels])
    told = command("verify", whole, whole, "--probe", tmp_path / "i.npz")
    assert told.code == 0 and f"{right:.2%}" in told.out and "i.npz: 'y' is one-hot" in told.out
    named = np.array(["Ant", "Bee", "Cow"])[labels]
    rows = [",".join(map(str, [*row, name])) for row, name in zip(ids.tolist(), named, strict=True)]
    table.write_text("\n".join(["a,b,c,d,e,species", *rows]))
    assert accuracy(command("verify", whole, whole, "--probe", table, "--json")) == pytest.approx(right)


def test_extract_and_record_take_what_verify_takes(tmp_path: Path) -> None:
    teacher = network(tmp_path / "c.onnx", TensorProto.FLOAT, 3, 6, 6)
    folder, inputs = pictures(tmp_path / "set")
    recorded = command("record", teacher, "--data", folder, "--range", "0,1", "--out", tmp_path / "a")
    assert recorded.code == 0 and "bilinear" in recorded.err
    np.savez(tmp_path / "p.npz", x=inputs.astype(np.float32))
    assert command("record", teacher, "--data", tmp_path / "p.npz", "--out", tmp_path / "b").code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    small = ["--range", "0,1", "--passes", "2e3", "--json"]
    ended = command("extract", teacher, *small, "--probe", folder, "--out", tmp_path / "run")
    classes = np.arange(COUNT) * 3 // COUNT
    assert accuracy(ended) == pytest.approx((answers(teacher, inputs.astype(np.float32)) == classes).mean())
    assert "set: class folders are taken in alphabetical order" in ended.err
    assert "given" in command("extract", teacher, *small, "--recipe", "kd", "--data", folder, "--dry-run").err


def test_all_refuse_the_same(tmp_path: Path) -> None:
    teacher = network(tmp_path / "i.onnx", TensorProto.INT64, 5)
    for name, arrays, words in [
        ("ones", {"x": R.integers(0, 3, (6, 5)), "y": np.arange(6) % 3 + 1}, "subtract 1"),
        ("parts", {"x": R.normal(size=(6, 5))}, "fractions"),
    ]:
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        for line in (
            ["verify", teacher, teacher, "--probe", path],
            ["record", teacher, "--data", path, "--out", tmp_path / "s"],
            ["extract", teacher, "--probe", path, "--out", tmp_path / "run"],
            ["extract", teacher, "--recipe", "kd", "--data", path, "--out", tmp_path / "run"],
        ):
            ended = command(*line)
            assert ended.code == 2 and words in ended.err and path.name in ended.err, ended.err
            assert "Traceback" not in ended.err and not (tmp_path / "run").exists()
