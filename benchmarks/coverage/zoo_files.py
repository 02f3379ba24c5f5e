"""ONNX files that no torch exporter writes: control flow, other converters' patterns, quantised and optimised ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

CLASSES = 5


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    random = _random()
    draws = {name: random.standard_normal(shape) / np.sqrt(shape[-2:][0]) for name, shape in shapes.items()}
    return [numpy_helper.from_array(draw.astype(np.float32), name) for name, draw in draws.items()]


def _written(path: Path, text: str, weights: list[onnx.TensorProto]) -> Path:
    """A model in ONNX's own text form, with weights."""
    model = parser.parse_model(text)
    model.graph.initializer.extend(weights)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def branches(path: Path, batch: str = "batch", by_shape: bool = False) -> Path:
    """If: which branch is decided by the sum of all inputs, or by the input's shape as exporters write it."""
    decided = "s = ReduceSum <keepdims = 0> (x) zero = Constant <value_float = 0.0> () up = Greater (s, zero)"
    if by_shape:
        decided = "s = Shape <start = 1, end = 2> (x) one = Constant <value_ints = [1]> () up = Equal (s, one)"
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[{batch}, 12] x) => (float[{batch}, 5] y) {{
        {decided}
        h = If (up) <
            then_branch = t () => (float[{batch}, 8] a) {{ u = MatMul (x, w1) a = Tanh (u) }},
            else_branch = e () => (float[{batch}, 8] b) {{ v = MatMul (x, w2) b = Sigmoid (v) }}
        >
        y = MatMul (h, w3)
    }}"""
    return _written(path, text, _weights(w1=(12, 8), w2=(12, 8), w3=(8, CLASSES)))


def loop(path: Path) -> Path:
    """Loop: a fixed number of turns, a value carried and one collected in each."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 8] x) => (float[batch, 5] y) {
        turns = Constant <value = int64 {4}> ()
        on = Constant <value = bool {1}> ()
        last, all = Loop (turns, on, x) <
            body = b (int64 i, bool c, float[batch, 8] h) => (bool c_out, float[batch, 8] h_out, float[batch, 8] kept) {
                c_out = Identity (c)
                m = MatMul (h, w1)
                t = Tanh (m)
                h_out = Add (t, x)
                kept = Identity (h_out)
            }
        >
        m0 = ReduceMean <axes = [0], keepdims = 0> (all)
        z = Add (m0, last)
        y = MatMul (z, w2)
    }"""
    return _written(path, text, _weights(w1=(8, 8), w2=(8, CLASSES)))


def scan(path: Path) -> Path:
    """Scan: a recurrent net over the steps, written by hand."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 7, 6] x) => (float[batch, 5] y) {
        shape = Shape <start = 0, end = 1> (x)
        wide = Constant <value_ints = [8]> ()
        full = Concat <axis = 0> (shape, wide)
        h0 = ConstantOfShape (full)
        last, all = Scan (h0, x) <
            num_scan_inputs = 1, scan_input_axes = [1],
            body = b (float[batch, 8] h, float[batch, 6] step) => (float[batch, 8] h_out, float[batch, 8] kept) {
                u = MatMul (step, w1)
                v = MatMul (h, w2)
                s = Add (u, v)
                h_out = Tanh (s)
                kept = Identity (h_out)
            }
        >
        y = MatMul (last, w3)
    }"""
    return _written(path, text, _weights(w1=(6, 8), w2=(8, 8), w3=(8, CLASSES)))


def spectrogram(path: Path) -> Path:
    """STFT, as opset 17 has it, and a convolutional net on its power."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 512, 1] x) => (float[batch, 5] y) {
        step = Constant <value = int64 {32}> ()
        size = Constant <value = int64 {64}> ()
        window = HannWindow (size)
        f = STFT <onesided = 1> (x, step, window)
        p = ReduceSumSquare <axes = [3], keepdims = 0> (f)
        few = Constant <value_float = 1.0> ()
        q = Add (p, few)
        l = Log (q)
        places = Constant <value_ints = [1]> ()
        u = Unsqueeze (l, places)
        k = Conv <strides = [2, 2]> (u, w1)
        r = Relu (k)
        a = GlobalAveragePool (r)
        v = Flatten (a)
        y = MatMul (v, w2)
    }"""
    return _written(path, text, _weights(w1=(8, 1, 3, 3), w2=(8, CLASSES)))


def functions(path: Path) -> Path:
    """Model-local functions, one calling another, with attributes."""
    text = """<ir_version: 8, opset_import: ["" : 17, "made" : 1]>
    g (float[batch, 12] x) => (float[batch, 5] y) {
        h = made.block <alpha = 0.2> (x, w1)
        i = made.block <alpha = 0.4> (h, w2)
        y = MatMul (i, w3)
    }
    <domain: "made", opset_import: ["" : 17, "made" : 1]>
    block <alpha> (a, w) => (b) { m = MatMul (a, w) n = made.bend <alpha: float = @alpha> (m) b = LpNormalization (n) }
    <domain: "made", opset_import: ["" : 17]>
    bend <alpha> (a) => (b) { l = LeakyRelu <alpha: float = @alpha> (a) t = Tanh (a) b = Add (l, t) }
    """
    return _written(path, text, _weights(w1=(12, 8), w2=(8, 8), w3=(8, CLASSES)))


def from_tensorflow(path: Path, takes: str = "float", scaled: bool = False) -> Path:
    """What tf2onnx writes: channels last, a transpose, SAME padding, a Softmax; with pixels ``scaled`` inside."""
    head = "c = Cast <to = 1> (x) d = Sub (c, mean) e = Mul (d, scale)" if scaled else "e = Identity (x)"
    text = f"""<ir_version: 7, opset_import: ["" : 13]>
    g ({takes}[batch, 17, 17, 3] x) => (float[batch, 5] y) {{
        {head}
        t = Transpose <perm = [0, 3, 1, 2]> (e)
        k = Conv <auto_pad = "SAME_UPPER", strides = [2, 2], kernel_shape = [3, 3]> (t, w1, b1)
        r = Clip (k, low, high)
        f = Conv <auto_pad = "SAME_LOWER", strides = [2, 2], kernel_shape = [4, 4], group = 8> (r, w2)
        p = MaxPool <auto_pad = "SAME_UPPER", kernel_shape = [2, 2], strides = [2, 2]> (f)
        m = ReduceMean <axes = [2, 3], keepdims = 1> (p)
        q = Squeeze (m, places)
        s = MatMul (q, w3)
        y = Softmax <axis = -1> (s)
    }}"""
    weights = _weights(w1=(8, 3, 3, 3), b1=(8, 1), w2=(8, 1, 4, 4), w3=(8, CLASSES))
    weights[1].dims[:] = [8]
    for name, value in {"low": 0.0, "high": 6.0, "mean": 127.5, "scale": 1 / 64}.items():
        weights.append(numpy_helper.from_array(np.float32(value), name))
    weights.append(numpy_helper.from_array(np.array([2, 3]), "places"))
    return _written(path, text, weights)


def sklearn(path: Path, make: Callable[[], Any], classes: int = 3, **options: Any) -> Path:
    """A fitted scikit-learn classifier by skl2onnx; ZipMap and label included unless asked otherwise."""
    from skl2onnx import to_onnx

    random = _random()
    labels = np.arange(120) % classes
    x = (random.standard_normal((120, 6)) + labels[:, None] * np.linspace(-1, 1, 6)).astype(np.float32)
    model = make().fit(x, labels)
    onnx.save(to_onnx(model, x[:1], options={id(model): options} if options else None, target_opset=18), path)
    return path


def quantised(source: Path, path: Path, form: str, shape: tuple[int, ...]) -> Path:
    """An int8 version of a float file by onnxruntime: form "qdq", "qoperator", "channels" (QDQ) or "dynamic"."""
    from onnxruntime import quantization as q

    if form == "dynamic":
        q.quantize_dynamic(source, path, weight_type=q.QuantType.QUInt8)
        return path
    random = _random()

    class Reader(q.CalibrationDataReader):
        draws = iter([random.standard_normal((8, *shape)).astype(np.float32) for _ in range(8)])

        def get_next(self) -> dict[str, Any] | None:
            draw = next(self.draws, None)
            return None if draw is None else {onnx.load(source).graph.input[0].name: draw}

    q.quantize_static(
        source, path, Reader(), per_channel=form == "channels",
        quant_format=q.QuantFormat.QOperator if form == "qoperator" else q.QuantFormat.QDQ,
        activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
    )  # fmt: skip
    return path


def optimised(source: Path, path: Path, level: str) -> Path:
    """What onnxruntime stores of a file after its graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return path


def bfloat16_weights(source: Path, path: Path) -> Path:
    """The same file, its weights stored as bfloat16 and cast where they are used."""
    model = onnx.load(source)
    kept, casts = [], []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            kept.append(weight)
            continue
        values = numpy_helper.to_array(weight)
        kept.append(helper.make_tensor(f"{weight.name}_low", TensorProto.BFLOAT16, weight.dims, values.flatten()))
        casts.append(helper.make_node("Cast", [f"{weight.name}_low"], [weight.name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


def external(source: Path, path: Path) -> Path:
    """The same file, its weights beside it."""
    onnx.save(onnx.load(source), path, save_as_external_data=True, location=path.name + ".data", size_threshold=0)
    return path
