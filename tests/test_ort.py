"""onnxruntime's process: arrays go and come unchanged, refusals are told, and a dead child is no end."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxcake.core.errors import OnnxcakeError
from onnxcake.runtime import process as child_module
from onnxcake.runtime.ort import Runtime, RuntimeRefused, version

N = helper.make_node
KINDS = ["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"]


def value(name: str, kind: int = TensorProto.FLOAT, *shape: str | int | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape or None)


def identity(handmade: Any, kind: str = "float32") -> bytes:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = handmade([N("Identity", ["x"], ["y"])], inputs=[value("x", element)], outputs=[value("y", element)])
    content: bytes = model.SerializeToString()
    return content


def scaled(handmade: Any, factor: float) -> bytes:
    model = handmade(
        [N("Mul", ["x", "factor"], ["y"])],
        {"factor": np.array(factor, np.float32)},
        outputs=[value("y", TensorProto.FLOAT, "batch", 4)],
    )
    content: bytes = model.SerializeToString()
    return content


def child_of(runtime: Runtime) -> subprocess.Popen[bytes]:
    assert runtime._child.process is not None
    return runtime._child.process


@pytest.fixture
def own() -> Iterator[Runtime]:
    """A runtime that a test may end."""
    with Runtime() as runtime:
        yield runtime


X = np.arange(8, dtype=np.float32).reshape(2, 4)


# --- arrays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1,), (3, 4), (2, 1, 3), (0, 4), (1, 2, 3, 4, 5)])
def test_arrays_go_and_come_unchanged(shape: tuple[int, ...], kind: str, handmade: Any, runtime: Runtime) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
    got = runtime.load(identity(handmade, kind)).run(array)
    assert got.dtype == array.dtype and got.shape == shape and np.array_equal(got, array)


def test_every_bit_of_a_float_counts(handmade: Any, runtime: Runtime) -> None:
    odd = np.array([[0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3.4e38, np.pi]], np.float32)
    assert runtime.load(identity(handmade)).run(odd).tobytes() == odd.tobytes()


@pytest.mark.parametrize("view", [X[:, ::2], X.T, X[::-1], np.broadcast_to(X[:1], (3, 4))])
def test_views_are_sent_as_what_they_show(view: Any, handmade: Any, runtime: Runtime) -> None:
    assert np.array_equal(runtime.load(identity(handmade)).run(view), view)


def test_what_comes_back_may_be_written_to(handmade: Any, runtime: Runtime) -> None:
    got = runtime.load(identity(handmade)).run(X)
    got += 1
    assert np.array_equal(got, X + 1)


@pytest.mark.parametrize("array", [None, np.zeros((0, 3)), np.float32(2.5), np.arange(5, dtype=np.int8)])
def test_frames_survive_the_pipe(array: Any) -> None:
    pipe = io.BytesIO()
    child_module._send(pipe, {"do": "x", "text": "é\n\0"}, array)
    pipe.seek(0)
    header, got = child_module._receive(pipe)
    assert (header["do"], header["text"]) == ("x", "é\n\0")
    assert (got is None) == (array is None)
    if array is not None:
        assert got is not None and got.dtype == array.dtype and np.array_equal(got.ravel(), np.ravel(array))
    with pytest.raises(EOFError):
        child_module._receive(pipe)


def test_a_cut_frame_is_the_end(handmade: Any) -> None:
    pipe = io.BytesIO()
    child_module._send(pipe, {"do": "x"}, X)
    content = pipe.getvalue()
    for length in range(len(content)):
        with pytest.raises(EOFError):
            child_module._receive(io.BytesIO(content[:length]))


# --- sessions ----------------------------------------------------------------------------------------------


def test_several_models_in_one_process(handmade: Any, own: Runtime) -> None:
    sessions = [own.load(scaled(handmade, factor)) for factor in (1, 2, 3)]
    child = child_of(own)
    for factor, session in ((3, sessions[2]), (1, sessions[0]), (2, sessions[1])):
        assert np.array_equal(session.run(X), X * factor)
    assert child_of(own) is child


def test_a_session_tells_its_inputs_and_outputs(handmade: Any, runtime: Runtime) -> None:
    session = runtime.load(scaled(handmade, 2), threads=1)
    assert session.inputs == [["x", ["batch", 4], "tensor(float)"]]
    assert session.outputs == [["y", ["batch", 4], "tensor(float)"]]


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_batches_are_joined(batch: int, handmade: Any, runtime: Runtime) -> None:
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    assert np.array_equal(runtime.load(scaled(handmade, 2)).run_in_batches(x, batch), x * 2)


def test_large_inputs_are_run_few_at_a_time(handmade: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    model = handmade([N("Neg", ["x"], ["y"])], outputs=[value("y", TensorProto.FLOAT, "batch", "size")])
    model.graph.input[0].CopyFrom(value("x", TensorProto.FLOAT, "batch", "size"))
    session, asked = runtime.load(model.SerializeToString()), list[int]()
    run = session._run
    monkeypatch.setattr(session, "_run", lambda x: asked.append(x.nbytes) or run(x))
    x = np.ones((40, 1 << 18), np.float32)
    assert np.array_equal(session.run_in_batches(x), -x)
    assert len(asked) > 1 and max(asked) <= 1 << 24


def test_latency_is_a_time(handmade: Any, runtime: Runtime) -> None:
    assert 0 < runtime.load(scaled(handmade, 2), threads=1).latency_ms(X[:1], runs=5) < 1000


def test_a_large_array(handmade: Any, runtime: Runtime) -> None:
    """More than any pipe holds at once, both ways."""
    x = np.random.default_rng(0).normal(size=(500_000, 4)).astype(np.float32)
    assert np.array_equal(runtime.load(scaled(handmade, 2)).run(x), x * 2)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [b"", b"not a model", bytes(1000), b"\x08\x08"])
def test_what_is_no_model_is_refused_and_the_child_lives_on(model: bytes, handmade: Any, own: Runtime) -> None:
    session = own.load(scaled(handmade, 2))
    child = child_of(own)
    for _ in range(2):
        with pytest.raises(RuntimeRefused) as caught:
            own.load(model)
        assert isinstance(caught.value, OnnxcakeError) and caught.value.what and caught.value.exit_code == 4
    assert child_of(own) is child and child.poll() is None
    assert np.array_equal(session.run(X), X * 2)


def test_an_unknown_operator_is_refused(handmade: Any, runtime: Runtime) -> None:
    with pytest.raises(RuntimeRefused, match="NoSuchOperator"):
        runtime.load(handmade([N("NoSuchOperator", ["x"], ["y"])]).SerializeToString())


@pytest.mark.parametrize("x", [X[:, :3], X.astype(np.int64), X.reshape(2, 2, 2), X[0]])
def test_an_input_that_does_not_fit_is_refused(x: Any, handmade: Any, runtime: Runtime) -> None:
    session = runtime.load(scaled(handmade, 2))
    with pytest.raises(RuntimeRefused):
        session.run(x)
    with pytest.raises(RuntimeRefused):
        session.latency_ms(x, runs=1)
    assert np.array_equal(session.run(X), X * 2)


def test_texts_are_refused(handmade: Any, own: Runtime) -> None:
    """They have no bytes of their own that could be sent."""
    texts = handmade(
        [
            N("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"b"])),
            N("Identity", ["t"], ["y"]),
        ],
        outputs=[value("y", TensorProto.STRING, 2)],
    )
    session = own.load(texts.SerializeToString())
    with pytest.raises(RuntimeRefused):
        session.run(X)
    assert np.array_equal(own.load(scaled(handmade, 2)).run(X), X * 2)


def test_a_reason_is_never_empty(handmade: Any, runtime: Runtime) -> None:
    with pytest.raises(RuntimeRefused) as caught:
        runtime._ask({"do": "run", "id": 10_000}, X)
    assert caught.value.what


# --- a child that dies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 500_000])
def test_a_killed_child_is_told_and_the_next_load_works(rows: int, handmade: Any, own: Runtime) -> None:
    """With many rows the parent is still writing when it learns of the death."""
    session = own.load(scaled(handmade, 2))
    first = child_of(own)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with pytest.raises(RuntimeRefused, match=r"the process crashed \(SIGKILL\)"):
        session.run(np.zeros((rows, 4), np.float32))
    assert np.array_equal(own.load(scaled(handmade, 3)).run(X), X * 3)
    assert child_of(own) is not first


def test_a_child_killed_at_work(handmade: Any, own: Runtime) -> None:
    session = own.load(scaled(handmade, 2))
    child = child_of(own)
    os.kill(child.pid, signal.SIGSTOP)  # it will be at the frame for as long as we like
    threading.Timer(0.2, lambda: os.kill(child.pid, signal.SIGKILL)).start()
    with pytest.raises(RuntimeRefused, match="crashed"):
        session.run(X)
    assert np.array_equal(own.load(scaled(handmade, 2)).run(X), X * 2)


def test_a_session_of_a_dead_child_is_not_another_model(handmade: Any, own: Runtime) -> None:
    """A fresh child counts its models from zero again."""
    old = own.load(scaled(handmade, 2))
    child_of(own).kill()
    child_of(own).wait()
    with pytest.raises(RuntimeRefused):
        old.run(X)
    assert np.array_equal(own.load(scaled(handmade, 100)).run(X), X * 100)
    for ask in (old.run, old.latency_ms):
        with pytest.raises(RuntimeRefused):
            ask(X)


def test_an_interruption_ends_the_child(handmade: Any, own: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a frame may be under way; what follows must not be taken for its answer."""
    session = own.load(scaled(handmade, 2))
    child = child_of(own)

    def interrupted(pipe: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(child_module, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run(X)
    assert child.poll() is not None
    assert np.array_equal(own.load(scaled(handmade, 3)).run(X), X * 3)


def test_an_interruption_while_sending_is_that_interruption(
    handmade: Any, own: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = own.load(scaled(handmade, 2))

    def half(pipe: Any, header: Any, array: Any) -> None:
        pipe.write(b"half a fra")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(child_module, "_send", half)
        with pytest.raises(KeyboardInterrupt):
            session.run(X)
    assert np.array_equal(own.load(scaled(handmade, 3)).run(X), X * 3)


def test_closing_ends_the_child(handmade: Any) -> None:
    with Runtime() as runtime:
        runtime.load(scaled(handmade, 2))
        child = child_of(runtime)
    assert child.poll() == 0
    runtime.close()


def test_a_child_ends_with_its_parent(handmade: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(scaled(handmade, 2))
    program = """
import os, sys
from pathlib import Path
from onnxcake.runtime.ort import Runtime
runtime = Runtime()
runtime.load(Path(sys.argv[1]).read_bytes())
print(runtime._child.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "m.onnx"], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(100):
        if not alive(pid):
            return
        threading.Event().wait(0.05)
    pytest.fail("the child outlives its parent")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- where it lives ----------------------------------------------------------------------------------------


def test_onnxruntime_is_never_loaded_here(handmade: Any, tmp_path: Path) -> None:
    model = handmade([N("MatMul", ["x", "W"], ["y"])], {"W": np.eye(4, 3, dtype=np.float32)})
    onnx.save(model, tmp_path / "t.onnx")
    program = """
import sys
import onnxcake.cli, onnxcake.commands.extract, onnxcake.commands.verify
from onnxcake import Teacher, verify
from onnxcake.runtime.ort import version
Teacher.load(sys.argv[1])
verify(sys.argv[1], sys.argv[1])
version()
print(sorted(name for name in sys.modules if "onnxruntime" in name))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, tmp_path / "t.onnx"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_files_of_the_users_folder_are_not_taken_for_modules(
    handmade: Any, own: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "json", "onnxruntime", "onnxcake"):
        (tmp_path / f"{name}.py").write_text("open('CANARY', 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(own.load(scaled(handmade, 2)).run(X), X * 2)
    assert not (tmp_path / "CANARY").exists()


def test_the_version_is_known() -> None:
    assert version()[0].isdigit()
