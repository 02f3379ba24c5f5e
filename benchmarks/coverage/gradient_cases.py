"""What the onnx package has no example for, and what has no gradient, by the reason."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, parser

from .common import with_data
from .gradient_forms import Example

_JUMPS = "as it is constant between jumps"
_WORDS = "as it deals in strings or dictionaries"
NO_GRADIENT: dict[str, set[str]] = {
    "as it gives whole numbers or truth values": {
        *("And", "Or", "Not", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "IsInf", "IsNaN"),
        *("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BitCast", "ArgMax", "ArgMin", "NonZero"),
        *("Shape", "Size", "SequenceLength", "OptionalHasElement", "MatMulInteger", "ConvInteger", "NonMaxSuppression"),
    },
    _JUMPS: {
        *("Ceil", "Floor", "Round", "Sign", "Hardmax", "Binarizer", "OneHotEncoder"),
        *("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
    },
    _WORDS: {
        *("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "LabelEncoder"),
        *("CastMap", "CategoryMapper", "DictVectorizer", "ZipMap", "ImageDecoder"),
    },
    "as it takes no numbers that matter": {
        *("Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "RandomNormalLike"),
        *("RandomUniformLike", "Multinomial", "Bernoulli", "SequenceEmpty", "HannWindow", "HammingWindow"),
        *("BlackmanWindow", "MelWeightMatrix"),
    },
    "as the size of its result depends on the data (refused)": {"Range", "Unique"},
    "as it is a step of training": {"Adagrad", "Adam", "Gradient", "Momentum"},
    "as it rounds, or undoes rounding (straight-through: see the int8 models)": {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QLinearAdd"),
        *("QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool", "QLinearGlobalAveragePool"),
        *("QLinearReduceMean", "QLinearConcat", "QLinearWhere", "QLinearSoftmax", "QGemm", "QAttention"),
        *("NhwcMaxPool", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
    },
}


def no_gradient(domain: str, name: str) -> str | None:
    """Why an operator has no gradient; None where it has one."""
    if domain == "com.microsoft.nchwc":
        return "as it is refused, being in the memory layout of one kind of processor"
    return next((why for why, names in NO_GRADIENT.items() if name in names), None)


_ONE = "i = Constant<value = int64 {1}>()"
_LOOP = """n = Constant<value = int64 {3}>() on = Constant<value = bool {1}>() last, all = Loop(n, on, x) <
    body = b (int64 t, bool c, float[2,3] h) => (bool d, float[2,3] o, float[2,3] k) {
        d = Identity(c) s = Tanh(h) o = Mul(s, w) k = Identity(o) }>
    p = ReduceSum<keepdims = 0>(all) y = Add(last, p)"""
_IF = """s = ReduceSum<keepdims = 0>(x) z = Constant<value = float {0.0}>() c = Greater(s, z) y = If(c) <
    then_branch = t () => (float[2,3] a) { a = Tanh(x) }, else_branch = e () => (float[2,3] b) { b = Exp(x) }>"""
_MAP = """s = SequenceConstruct(a, b) m = SequenceMap(s) <
    body = f (float[2,3] u) => (float[2,3] v) { v = Tanh(u) }> y = ConcatFromSequence<axis = 0>(m)"""
_SVM = """kernel_type = "RBF", kernel_params = [0.5, 0.0, 3.0], rho = [0.1], coefficients = [0.5, -0.3, 0.2, 0.7],
    support_vectors = [0.1, 0.2, 0.3, -0.4, 0.5, -0.6, 0.7, 0.8, -0.9, 0.3, 0.2, 0.1]"""
_NORMED = "float[2,3,4] x, float[2,3,4] s, float[4] g"
_SCALES = "s = Constant<value = float[4] {1.0, 1.0, 2.0, 3.0}>()"
_PAIR = "float[2,3] a, float[2,3] b"

# Domain and operator → (inputs, body), or a list of (first version, last version, inputs, body).
_GRAPHS: dict[tuple[str, str], Any] = {
    ("", "ConcatFromSequence"): (_PAIR, "s = SequenceConstruct(a, b) y = ConcatFromSequence<axis = 1>(s)"),
    ("", "SequenceConstruct"): (_PAIR, "s = SequenceConstruct(a, b) y = ConcatFromSequence<axis = 1>(s)"),
    ("", "SequenceAt"): (_PAIR, f"s = SequenceConstruct(a, b) {_ONE} y = SequenceAt(s, i)"),
    ("", "SequenceInsert"): (
        _PAIR,
        f"s = SequenceConstruct(a, a) {_ONE} t = SequenceInsert(s, b, i) y = SequenceAt(t, i)",
    ),
    ("", "SequenceErase"): (
        _PAIR,
        f"s = SequenceConstruct(a, b, a) {_ONE} t = SequenceErase(s, i) y = ConcatFromSequence<axis = 0>(t)",
    ),
    ("", "SplitToSequence"): (
        "float[2,4] x",
        f"n = Constant<value = int64[2] {{1, 3}}>() s = SplitToSequence<axis = 1>(x, n) {_ONE} y = SequenceAt(s, i)",
    ),
    ("", "SequenceMap"): (_PAIR, _MAP),
    ("", "Optional"): ("float[2,3] x", "o = Optional(x) y = OptionalGetElement(o)"),
    ("", "OptionalGetElement"): ("float[2,3] x", "o = Optional(x) y = OptionalGetElement(o)"),
    ("", "GlobalLpPool"): ("float[2,3,4,4] x", "y = GlobalLpPool<p = 3>(x)"),
    ("", "MaxRoiPool"): (
        "float[1,2,8,8] x",
        "r = Constant<value = float[1,5] {0.0, 1.0, 1.0, 6.0, 7.0}>() y = MaxRoiPool<pooled_shape = [2, 2]>(x, r)",
    ),
    ("", "Loop"): [
        (7, 12, "float[2,3] x, float[2,3] w", _LOOP.replace("<keepdims", "<axes = [0], keepdims")),
        (
            *(13, 99, "float[2,3] x, float[2,3] w"),
            "z = Constant<value = int64[1] {0}>() " + _LOOP.replace("(all)", "(all, z)"),
        ),
    ],
    ("", "If"): ("float[2,3] x", _IF),
    ("", "Identity"): ("float[2,3] x", "y = Identity(x)"),
    ("", "Upsample"): [
        (9, 9, "float[1,2,3,3] x", f'{_SCALES} y = Upsample<mode = "linear">(x, s)'),
    ],
    ("", "Resize"): [
        (10, 10, "float[1,2,3,3] x", f'{_SCALES} y = Resize<mode = "linear">(x, s)'),
        (
            *(11, 12, "float[1,2,4,4] x"),
            f"""r = Constant<value = float[8] {{0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0}}>()
            {_SCALES} y = Resize<mode = "cubic">(x, r, s)""",
        ),
    ],
    ("", "Trilu"): ("float[2,4,4] x", f"{_ONE} y = Trilu<upper = 0>(x, i)"),
    ("", "SimplifiedLayerNormalization"): ("float[2,3,4] x, float[4] g", "y = SimplifiedLayerNormalization(x, g)"),
    ("ai.onnx.ml", "LinearClassifier"): (
        "float[4,2] x",
        """k, y = LinearClassifier<coefficients = [0.5, -1.0, 0.3, 0.8, -0.2, 0.1], intercepts = [0.1, 0.2, -0.3],
        classlabels_ints = [0, 1, 2], post_transform = "SOFTMAX">(x)""",
    ),
    ("ai.onnx.ml", "LinearRegressor"): (
        "float[4,2] x",
        'y = LinearRegressor<coefficients = [0.5, -1.0], intercepts = [0.1], targets = 1>(x)',
    ),
    ("ai.onnx.ml", "Normalizer"): ("float[4,3] x", 'y = Normalizer<norm = "L2">(x)'),
    ("ai.onnx.ml", "Scaler"): ("float[4,2] x", "y = Scaler<offset = [0.5, -1.0], scale = [2.0, 3.0]>(x)"),
    ("ai.onnx.ml", "Imputer"): (
        "float[4,2] x",
        "y = Imputer<imputed_value_floats = [0.5], replaced_value_float = 9.0>(x)",
    ),
    ("ai.onnx.ml", "FeatureVectorizer"): (
        "float[4,2] a, float[4,3] b",
        "y = FeatureVectorizer<inputdimensions = [2, 3]>(a, b)",
    ),
    ("ai.onnx.ml", "SVMRegressor"): ("float[4,3] x", f"y = SVMRegressor<n_supports = 4, {_SVM}>(x)"),
    ("ai.onnx.ml", "SVMClassifier"): (
        "float[4,3] x",
        f"k, y = SVMClassifier<vectors_per_class = [2, 2], classlabels_ints = [0, 1], {_SVM}>(x)",
    ),
    ("com.microsoft", "Attention"): (
        "float[2,3,4] x, float[4,12] w, float[12] b",
        "y = Attention<num_heads = 2, unidirectional = 1>(x, w, b)",
    ),
    ("com.microsoft", "MultiHeadAttention"): (
        "float[2,3,4] q, float[2,5,4] k, float[2,5,4] v, float[12] b",
        "y = MultiHeadAttention<num_heads = 2>(q, k, v, b)",
    ),
    ("com.microsoft", "RotaryEmbedding"): (
        "float[2,3,8] x, float[6,2] c, float[6,2] s",
        "p = Constant<value = int64[1] {2}>() y = RotaryEmbedding<num_heads = 2>(x, p, c, s)",
    ),
    ("com.microsoft", "MatMulNBits"): (
        "float[2,16] x, uint8[3,1,8] w, float[3] s",
        "y = MatMulNBits<K = 16, N = 3, bits = 4, block_size = 16>(x, w, s)",
    ),
    ("com.microsoft", "BiasAdd"): ("float[2,3,4] x, float[4] b, float[2,3,4] s", "y = BiasAdd(x, b, s)"),
    ("com.microsoft", "BiasGelu"): ("float[2,3] x, float[3] b", "y = BiasGelu(x, b)"),
    ("com.microsoft", "BiasSplitGelu"): ("float[2,3,8] x, float[8] b", "y = BiasSplitGelu(x, b)"),
    ("com.microsoft", "FastGelu"): ("float[2,3] x, float[3] b", "y = FastGelu(x, b)"),
    ("com.microsoft", "Gelu"): ("float[2,3] x", "y = Gelu(x)"),
    ("com.microsoft", "QuickGelu"): ("float[2,3] x", "y = QuickGelu<alpha = 1.5>(x)"),
    ("com.microsoft", "FusedConv"): (
        "float[1,2,5,5] x, float[3,2,3,3] w, float[3] b, float[1,3,3,3] z",
        'y = FusedConv<activation = "Relu">(x, w, b, z)',
    ),
    ("com.microsoft", "FusedGemm"): (
        "float[3,2] a, float[3,4] b, float[4] c",
        'y = FusedGemm<activation = "LeakyRelu", activation_alpha = 0.2, alpha = 0.5, transA = 1>(a, b, c)',
    ),
    ("com.microsoft", "FusedMatMul"): ("float[4,3] a, float[4,2] b", "y = FusedMatMul<alpha = 0.5, transA = 1>(a, b)"),
    ("com.microsoft", "TransposeMatMul"): ("float[4,3] a, float[2,3] b", "y = TransposeMatMul<transB = 1>(a, b)"),
    ("com.microsoft", "SkipLayerNormalization"): (
        f"{_NORMED}, float[4] b, float[4] c",
        "y = SkipLayerNormalization(x, s, g, b, c)",
    ),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): (_NORMED, "y = SkipSimplifiedLayerNormalization(x, s, g)"),
    ("com.microsoft", "EmbedLayerNormalization"): (
        "float[5,4] w, float[6,4] p, float[2,4] t, float[4] g, float[4] b",
        """n = Constant<value = int32[2,3] {1, 2, 4, 0, 3, 1}>() u = Constant<value = int32[2,3] {0, 1, 0, 1, 1, 0}>()
        y, m = EmbedLayerNormalization(n, u, w, p, t, g, b)""",
    ),
    ("com.microsoft", "GroupNorm"): (
        "float[2,3,3,4] x, float[4] g, float[4] b",
        "y = GroupNorm<groups = 2, activation = 1>(x, g, b)",
    ),
    ("com.microsoft", "SkipGroupNorm"): (
        "float[2,3,3,4] x, float[4] g, float[4] b, float[2,3,3,4] s, float[4] c",
        "y, z = SkipGroupNorm<groups = 2, activation = 0>(x, g, b, s, c)",
    ),
}  # fmt: skip


def cases(domain: str, name: str, version: int) -> list[Example]:
    """Hand-written examples of an operator at a version."""
    known = _GRAPHS.get((domain, name), [])
    found = [known] if isinstance(known, tuple) else [case[2:] for case in known if case[0] <= version <= case[1]]
    return [_example(domain, name, version, *case) for case in found]


def _example(domain: str, name: str, version: int, inputs: str, body: str) -> Example:
    opsets = {"": 17, "ai.onnx.ml": 3, "com.microsoft": 1} | {domain: version}
    if domain:
        body = body.replace(f"{name}<", f"{domain}.{name}<").replace(f"{name}(", f"{domain}.{name}(")
    imports = ", ".join(f'"{known}" : {number}' for known, number in opsets.items())
    model = parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> g ({inputs}) => (float[] y) {{ {body} }}")
    random = np.random.default_rng(zlib.crc32(name.encode()))
    arrays: list[Any] = []
    for declared in model.graph.input:
        kind = declared.type.tensor_type
        shape = [size.dim_value for size in kind.shape.dim]
        if kind.elem_type == TensorProto.FLOAT:
            arrays.append(random.standard_normal(shape).astype(np.float32))
        else:
            arrays.append(random.integers(0, 256, shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    return Example(f"{name} by hand", model, arrays)


def straight_through(version: int) -> str:
    """What is wrong with the gradient through quantising and back: 1 within the range, 0 outside; "" if nothing is."""
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {version}]> g (float[40] x) => (float[40] y)
        <float s = {{0.1}}, uint8 z = {{100}}> {{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }}"""
    )
    graph, (x,) = with_data(model, [np.linspace(-19.96, 19.94, 40)], lambda *_: True, torch.float64)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(graph(x).sum(), x)
    within = (x.detach() > -10) & (x.detach() < 15.5)
    return (
        ""
        if torch.equal(gradient, within.double())
        else "straight-through gradient is not 1 within the range, 0 outside"
    )
