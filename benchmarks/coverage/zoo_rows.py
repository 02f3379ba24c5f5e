"""The rows of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import zoo_files as files
from . import zoo_nets as nets
from .zoo import Made, Row

IMAGE = (3, 16, 16)
EXPORTERS = ("dynamo", "legacy13", "legacy17")


def net(
    make: Callable[[], nn.Module], shape: tuple[int, ...], exporter: str = "legacy17", **settings: Any
) -> Callable[[Path], Made]:
    """A maker for a torch model."""

    def maker(folder: Path) -> Made:
        path = folder / "model.onnx"
        model, inputs = nets.saved(path, make, shape, exporter, **settings)
        return Made(path, inputs, model)

    return maker


def after_embedding(folder: Path) -> Made:
    """A text encoder that takes token numbers; its original from the embedding on, and embeddings for it."""
    path = folder / "model.onnx"
    model, _ = nets.saved(path, lambda: nets.Encoder(words=50), (12,), "legacy17", words=50)
    model.embedding = nn.Identity()
    return Made(path, torch.randn(5, 12, 16), model)


def fixed(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> Callable[[Path], Made]:
    """A maker for a torch model exported for one batch size; tried at three times that."""

    def maker(folder: Path) -> Made:
        path = folder / "model.onnx"
        _, inputs = nets.saved_fixed(path, make, shape)
        return Made(path, torch.cat([inputs, inputs.flip(0) * 0.5, inputs * -1]))

    return maker


def after(
    maker: Callable[[Path], Made], change: Callable[..., Path], *settings: Any, twin: bool = False
) -> Callable[[Path], Made]:
    """A maker for a file that is made from another one; ``twin`` keeps the other's torch model to compare with."""

    def changed(folder: Path) -> Made:
        made = maker(folder)
        path = change(made.path, folder / "changed.onnx", *settings)
        return Made(path, made.inputs, made.original if twin else None)

    return changed


def file(write: Callable[..., Path], inputs: tuple[int, ...], *settings: Any, **options: Any) -> Callable[[Path], Made]:
    """A maker for a file that is written by hand or by scikit-learn."""

    def maker(folder: Path) -> Made:
        path = write(folder / "model.onnx", *settings, **options)
        return Made(path, torch.randn(5, *inputs, generator=torch.Generator().manual_seed(0)))

    return maker


def pixels(maker: Callable[[Path], Made]) -> Callable[[Path], Made]:
    """The same with whole numbers 0…255 for inputs."""

    def whole(folder: Path) -> Made:
        made = maker(folder)
        draw = torch.randint(256, made.inputs.shape, generator=torch.Generator().manual_seed(0))
        return Made(made.path, draw.to(torch.uint8), made.original)

    return whole


def tensorflow_bytes(folder: Path) -> Made:
    """tf2onnx's pattern with bytes for an input; the same for floats to take differences in."""
    made = pixels(file(files.from_tensorflow, (17, 17, 3), "uint8", True))(folder)
    return Made(made.path, made.inputs, for_floats=files.from_tensorflow(folder / "floats.onnx", "float", True))


def sklearn(name: str, *steps: str, **settings: Any) -> Callable[[], Any]:
    """A scikit-learn classifier by name, after preprocessing ``steps``."""

    def make() -> Any:
        from sklearn import (
            discriminant_analysis,
            ensemble,
            linear_model,
            naive_bayes,
            neural_network,
            preprocessing,
            svm,
        )
        from sklearn.pipeline import make_pipeline

        rooms = (linear_model, neural_network, svm, ensemble, discriminant_analysis, naive_bayes)
        kind = next(getattr(room, name) for room in rooms if hasattr(room, name))
        before = [getattr(preprocessing, step)() for step in steps]
        return make_pipeline(*before, kind(**settings)) if before else kind(**settings)

    return make


def _recurrent(kind: str) -> Callable[[], nn.Module]:
    return lambda: nets.Recurrent(kind)


CNN, PLAIN, ENCODER = net(nets.cnn, IMAGE), net(nets.plain_cnn, IMAGE), net(nets.Encoder, (12, 16))
MLP = net(nets.mlp, (12,))
NET = {"max_iter": 60, "random_state": 0}
ROWS = [
    *(
        Row(f"{kind}, {exporter}", net(_recurrent(kind), (7, 6), exporter))
        for kind in ("lstm", "bilstm", "gru", "rnn")
        for exporter in EXPORTERS
    ),
    *(Row(f"audio, 1-D convolutions, {e}", net(nets.audio, (1, 256), e)) for e in EXPORTERS),
    Row("audio, short-time Fourier transform, dynamo", net(nets.Spectrogram, (512,), "dynamo")),
    Row("audio, STFT", file(files.spectrogram, (512, 1))),
    *(Row(f"text encoder on embeddings, {e}", net(nets.Encoder, (12, 16), e)) for e in ("dynamo", "legacy17")),
    Row(
        "text encoder on token numbers, cut behind the embedding",
        after_embedding,
        {"input": "/embedding/Gather_output_0", "shape": (1, 12, 16)},
        cosine=0.999,
    ),
    *(Row(f"tabular MLP, {e}", net(nets.mlp, (12,), e)) for e in EXPORTERS),
    Row("tabular MLP, float64", net(nets.smooth, (12,), dtype=torch.float64)),
    Row("sklearn LogisticRegression", file(files.sklearn, (6,), sklearn("LogisticRegression"))),
    Row(
        "sklearn LogisticRegression, no ZipMap", file(files.sklearn, (6,), sklearn("LogisticRegression"), zipmap=False)
    ),
    Row("sklearn LogisticRegression, two classes", file(files.sklearn, (6,), sklearn("LogisticRegression"), 2)),
    Row("sklearn MLPClassifier", file(files.sklearn, (6,), sklearn("MLPClassifier", **NET))),
    Row(
        "sklearn scaler, LogisticRegression", file(files.sklearn, (6,), sklearn("LogisticRegression", "StandardScaler"))
    ),
    Row(
        "sklearn scaler, normaliser, MLP",
        file(files.sklearn, (6,), sklearn("MLPClassifier", "MinMaxScaler", "Normalizer", **NET)),
    ),
    Row("sklearn SVC", file(files.sklearn, (6,), sklearn("SVC", probability=True, random_state=0))),
    Row("sklearn discriminant analysis", file(files.sklearn, (6,), sklearn("LinearDiscriminantAnalysis"))),
    Row(
        "sklearn RandomForest",
        file(files.sklearn, (6,), sklearn("RandomForestClassifier", n_estimators=5)),
        refused="TreeEnsemble",
    ),
    Row(
        "sklearn GradientBoosting",
        file(files.sklearn, (6,), sklearn("GradientBoostingClassifier", n_estimators=5)),
        refused="TreeEnsemble",
    ),
    *(
        Row(
            f"int8 convolutional, {form}",
            after(PLAIN, files.quantised, form, IMAGE, twin=True),
            cosine=0.9,
            forward=0.05,
        )
        for form in ("qdq", "channels", "qoperator", "dynamic")
    ),
    Row("int8 MLP, dynamic", after(MLP, files.quantised, "dynamic", (12,), twin=True), cosine=0.9, forward=0.05),
    Row("int8 MLP, qdq", after(MLP, files.quantised, "qdq", (12,), twin=True), cosine=0.9, forward=0.05),
    Row("int8 transformer, qdq", after(ENCODER, files.quantised, "qdq", (12, 16), twin=True), cosine=0.9, forward=0.05),
    Row(
        "float16 within", net(lambda: nets.Lowered(nets.cnn().half(), torch.float16), IMAGE), cosine=0.99, forward=0.02
    ),
    Row("float16 input and output", net(nets.cnn, IMAGE, dtype=torch.float16), cosine=0.99, forward=0.02),
    Row("bfloat16 weights", after(CNN, files.bfloat16_weights)),
    Row("external data", after(CNN, files.external)),
    Row("If, decided by the shape", file(files.branches, (12,), "batch", True)),
    Row("If, decided by the input, batch of 1", file(files.branches, (12,), "1")),
    Row("If, decided by the whole batch", file(files.branches, (12,)), refused="depends on the others"),
    Row("Loop", file(files.loop, (8,))),
    Row("Scan", file(files.scan, (7, 6))),
    Row("functions of the model's own", file(files.functions, (12,))),
    Row("tf2onnx pattern", file(files.from_tensorflow, (17, 17, 3))),
    Row("tf2onnx pattern, bytes", tensorflow_bytes),
    Row("bytes, channels last, normalised inside", pixels(net(nets.Pixels, (16, 16, 3))), cosine=0.999),
    *(
        Row(f"onnxruntime's {level} optimisations, {name}", after(maker, files.optimised, level), refused=refused)
        for name, maker, level, refused in (
            *(("convolutional", CNN, level, None) for level in ("basic", "extended")),
            ("convolutional", CNN, "all", "memory layout"),
            *(("transformer", ENCODER, level, None) for level in ("basic", "extended", "all")),
        )
    ),
    *(Row(f"batch of {n} in a reshape", fixed(lambda n=n: nets.BakedIn(n), (n, *IMAGE))) for n in (1, 7)),
    *(Row(f"batch of {n}, transformer", fixed(nets.Encoder, (n, 12, 16))) for n in (1, 7)),
    *(Row(f"batch of {n}, LSTM", fixed(_recurrent("lstm"), (n, 7, 6))) for n in (1, 7)),
]
