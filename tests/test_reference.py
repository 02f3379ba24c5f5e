"""What our onnxruntime process answers is what a plain InferenceSession of the file answers, at every level."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from nhwc_graphs import random_nhwc
from onnx import numpy_helper
from plain_session import LEVELS, plain_session

from onnxcake.core.errors import OutputError
from onnxcake.onnxfile.load import load
from onnxcake.onnxfile.normalise import normalise
from onnxcake.runtime import private_folder as folders
from onnxcake.runtime.ort import Arithmetic, Runtime, RuntimeRefused, Session
from onnxcake.runtime.private_folder import private_folder

_CLOSE = 1e-6  # of the largest answer


def ours(runtime: Runtime, path: Path, **options: Any) -> tuple[Session, Any]:
    """Our session of the same file, and an input for it."""
    safe = normalise(load(path))
    part = safe.cut(next(iter(safe.outputs)))
    x = np.random.default_rng(7).normal(size=(3, *safe.input_shape)).astype(np.float32)
    return runtime.load(part.SerializeToString(), 1, safe.beside(part), **options), x


def check_every_level(runtime: Runtime, path: Path) -> None:
    for arithmetic in get_args(Arithmetic):
        for level in LEVELS:
            for lean in (False, True):
                session, x = ours(runtime, path, level=level, arithmetic=arithmetic, lean=lean)
                plain = plain_session(path.read_bytes(), arithmetic, level)
                want = np.asarray(plain.run(None, {plain.get_inputs()[0].name: x})[0])
                got = session.run(x)
                session.close()
                assert np.isfinite(want).all() and np.abs(want).max() > 0
                worst = np.abs(got - want).max() / np.abs(want).max()
                assert worst <= _CLOSE, f"{level}, {arithmetic}, lean={lean}: {worst:.1e}"


@pytest.mark.parametrize("seed", range(6))
def test_channels_last(seed: int, runtime: Runtime, tmp_path: Path) -> None:
    onnx.save(random_nhwc(seed), tmp_path / "t.onnx")
    check_every_level(runtime, tmp_path / "t.onnx")


def test_a_constant_that_onnxruntime_rewrites_under_its_old_name(runtime: Runtime, tmp_path: Path) -> None:
    """A weight of 1 KiB or more, added between two Transposes, whose axes are all of one size."""
    draw, size = np.random.default_rng(0), 16
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N,18,18,3] x) => (float[N,5] y) {
        a = Transpose<perm=[0,3,1,2]>(x) c = Conv(a, W) d = Transpose<perm=[0,2,3,1]>(c) e = Add(d, s)
        f = Transpose<perm=[0,3,1,2]>(e) r = Relu(f) p = GlobalAveragePool(r) q = Flatten(p) y = MatMul(q, V) }"""
    model = onnx.parser.parse_model(text)
    for name, shape in {"W": (size, 3, 3, 3), "s": (1, size, size, size), "V": (size, 5)}.items():
        model.graph.initializer.append(numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name))
    onnx.save(model, tmp_path / "t.onnx")
    check_every_level(runtime, tmp_path / "t.onnx")


# --- the folder that weights go through -----------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that holds nobody else's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(folders.tempfile, "tempdir", None)
    return tmp_path


def weighted(handmade: Any) -> tuple[bytes, dict[str, Any]]:
    weights = {"w": np.eye(4, dtype=np.float32) * 3}
    model = handmade([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], weights)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w")
    return model.SerializeToString(), weights


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_nothing_is_left(handmade: Any, temporary: Path) -> None:
    model, weights = weighted(handmade)
    with Runtime() as runtime:
        session = runtime.load(model, weights=weights)
        assert not list(temporary.glob("onnxcake-*"))
        assert np.array_equal(session.run(X), X * 3)
        with pytest.raises(RuntimeRefused) as caught:
            runtime.load(b"no model", weights=weights)
        assert str(temporary) not in str(caught.value)
        assert not list(temporary.glob("onnxcake-*"))


def test_what_a_killed_process_left_is_removed_and_a_living_one_keeps_its_own(temporary: Path) -> None:
    program = """
import os, sys, time
from onnxcake.runtime.private_folder import private_folder
with private_folder() as folder:
    (folder / "w").write_bytes(bytes(100))
    print(folder, flush=True)
    sys.stdin.read()
"""
    others = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    killed, living = (Path(other.stdout.readline().strip()) for other in others)  # type: ignore[union-attr]
    os.kill(others[0].pid, signal.SIGKILL)
    others[0].wait()
    assert killed.is_dir() and (killed.stat().st_mode & 0o077) == 0
    with private_folder() as own:
        assert not killed.exists() and living.is_dir() and own.is_dir()
    others[1].communicate("")
    assert not list(temporary.glob("onnxcake-*"))


def test_no_room_for_the_weights_is_said(handmade: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, weights = weighted(handmade)
    with Runtime() as runtime:
        _no_room(monkeypatch, runtime)
        with pytest.raises(OutputError, match="TMPDIR") as caught:
            runtime.load(model, weights=weights)
        assert caught.value.exit_code == 7


def _no_room(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> None:
    """Has the child refuse a weight, as where the disk is full."""
    real: Callable[..., Any] = runtime._child.ask

    def full(header: dict[str, Any], array: Any = None) -> Any:
        return real({**header, "name": "no such folder/w"} if header["do"] == "weight" else header, array)

    monkeypatch.setattr(runtime._child, "ask", full)
