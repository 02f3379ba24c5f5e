"""The timm architectures of the benchmark: made with seeds, exported once, and kept with what they should give.

    python -m benchmarks.coverage.timm_models NAME SIZE EXPORTER … [--img-size]     (one architecture)

Beside each file lies an npz with inputs at two batch sizes, what onnxruntime gives for them, and the output and the
input gradient of the torch original (the latter in float64, too); so a later run needs neither timm nor the exporters.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from .common import CACHE, add, one_line, rows, session
from .torchvision_schemas import declare

FOLDER = CACHE.parent / "timm"
CLASSES, BATCHES = 10, (2, 5)
EXPORTERS = {"dynamo": 0, "legacy13": 13, "legacy17": 17}  # name → opset; 0: the exporter's own

_AT_64 = """
    resnet18 resnet50 resnext50_32x4d seresnet18 skresnet18 resnest14d res2net50_26w_4s ecaresnet26t resnetv2_50
    seresnext26d_32x4d regnetx_002 regnety_002 densenet121 dpn68 dla34 hrnet_w18_small mobilenetv2_100
    mobilenetv3_small_100 mobilenetv3_large_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium efficientnet_b0
    tf_efficientnet_b0 tf_efficientnetv2_b0 tf_mobilenetv3_small_100 mixnet_s ghostnet_100 ghostnetv2_100 mnasnet_100
    spnasnet_100 hardcorenas_a fbnetc_100 tinynet_e lcnet_050 rexnet_100 convnext_atto convnextv2_atto
    inception_next_tiny xception41 cspresnet50 darknet21 cspdarknet53 nf_resnet26 eca_nfnet_l0 selecsls42b vovnet39a
    ese_vovnet19b_slim hgnetv2_b0 starnet_s1 pvt_v2_b0 poolformer_s12 caformer_s18 edgenext_xx_small efficientvit_b0
    fastvit_t8 convmixer_768_32 mambaout_femto focalnet_tiny_srf davit_tiny repghostnet_050 rdnet_tiny
"""
_TOLD_64 = """
    repvgg_a0 gernet_s mobileone_s0 repvit_m0_9 botnet26t_256 lambda_resnet26t levit_128s vit_tiny_patch16_224
    deit_tiny_distilled_patch16_224 deit3_small_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 twins_svt_small
    twins_pcpvt_small visformer_tiny convit_tiny coat_lite_tiny tnt_s_patch16_224 mixer_s16_224 resmlp_12_224
    gmlp_ti16_224 mobilevit_xxs mobilevitv2_050 efficientformerv2_s0 coatnet_nano_rw_224 volo_d1_224
    vit_small_patch16_rope_224 hiera_tiny_224 mvitv2_tiny pit_ti_224 sequencer2d_s vit_relpos_small_patch16_224
    swiftformer_xs
"""
_TORCHVISION = ("squeezenet1_1", "shufflenet_v2_x0_5")  # timm has none of these families
# Name, picture size, and whether the size must be told when the model is made.
ARCHITECTURES = [
    *((name, 64, False) for name in _AT_64.split()),
    *((name, 64, True) for name in _TOLD_64.split()),
    *((name, 64, False) for name in _TORCHVISION),
    ("swin_tiny_patch4_window7_224", 112, True),
    ("swinv2_tiny_window8_256", 128, True),
    ("maxvit_pico_rw_256", 128, True),
    ("nest_tiny", 128, True),
    ("eva02_tiny_patch14_224", 56, True),
    ("tiny_vit_5m_224", 64, False),
    ("gcvit_xxtiny", 224, True),
    ("crossvit_tiny_240", 240, False),
    ("efficientformer_l1", 224, False),
    ("beit_base_patch16_224", 64, True),
    ("vgg11_bn", 224, False),
    ("inception_v3", 96, False),
    ("inception_v4", 96, False),
    ("halonet26t", 256, False),
]


def make(name: str, size: int, told: bool) -> nn.Module:
    """The model in eval mode, its weights random but lively."""
    declare()
    import timm
    import torchvision

    torch.manual_seed(0)
    model: nn.Module
    if name in _TORCHVISION:
        model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    else:
        model = timm.create_model(name, num_classes=CLASSES, **({"img_size": size} if told else {}))
    return liven(model.eval(), torch.randn(16, 3, size, size))


@torch.no_grad()
def liven(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Undoes initialisations that hide parts of a network, and gives BatchNorm the statistics of ``inputs``.

    Fresh models have layer scales, gates and last norms near 0, biases at 0, and vanishing or exploding signals.
    """
    for name, p in model.named_parameters():
        if p.numel() == 1:
            if p.item() == 0:
                p.fill_(0.5)
        elif p.min() == p.max():
            value = float(p.flatten()[0])
            if p.dim() > 1 and value == 0 and "head" in name:
                p.normal_(0, p.shape[-1] ** -0.5)
            elif abs(value) <= 0.1 and name.endswith("bias"):
                p.normal_(0, 0.02)
            elif abs(value) <= 0.1:
                p.uniform_(0.1, 0.5)
            elif value == 1:
                p.uniform_(0.8, 1.2)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    if norms:
        model(inputs)
    return model.eval()


def export(model: nn.Module, inputs: Tensor, exporter: str) -> onnx.ModelProto:
    """One exporter's file, its batch dynamic."""
    opset = EXPORTERS[exporter]
    if not opset:
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        return torch.onnx.export(model, (inputs,), dynamo=True, dynamic_shapes=dynamic, verbose=False).model_proto
    buffer = io.BytesIO()
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(
        model, (inputs,), buffer, input_names=["input"], output_names=["output"], dynamic_axes=axes,
        opset_version=opset, dynamo=False,
    )  # fmt: skip
    return onnx.load_model_from_string(buffer.getvalue())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters print and warn about their own workings; errors still come through as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def _answer(model: nn.Module, inputs: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """A model's output and the input gradient of its projection."""
    x = inputs.clone().requires_grad_(True)
    out = model(x)
    (gradient,) = torch.autograd.grad((out * projection).sum(), x)
    return out.detach(), gradient


def _root(error: BaseException) -> BaseException:
    """What an error comes from in the end."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def files(name: str, exporter: str) -> tuple[Path, Path]:
    """The paths of a model and of what it should give."""
    return FOLDER / f"{name}-{exporter}.onnx", FOLDER / f"{name}-{exporter}.npz"


def prepare(name: str, size: int, told: bool, exporters: Sequence[str]) -> None:
    """Exports one architecture with each of these exporters that has not been tried; a refusal is kept too."""
    declare()
    import timm

    refused = rows("timm-refused", "name", "exporter")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with quiet():
        model = make(name, size, told)
    draws = [torch.randn(batch, 3, size, size) for batch in BATCHES]
    projection = torch.randn(BATCHES[1], CLASSES)
    out, gradient = _answer(model, draws[1], projection)
    _, gradient64 = _answer(model.double(), draws[1].double(), projection.double())
    arrays = {"projection": projection.numpy(), "original": out.numpy(), "gradient": gradient.numpy()}
    arrays["gradient64"] = gradient64.numpy().astype(np.float32)
    for exporter in exporters:
        file, beside = files(name, exporter)
        if beside.exists() or (name, exporter) in refused:
            continue
        refusal = ""
        # The exporters refuse fused attention for old opsets, and trip over it in some models.
        for fused in (True, False) if exporter != "legacy13" else (False,):
            timm.layers.set_fused_attn(fused)
            try:
                with quiet():
                    proto = export(make(name, size, told), draws[0], exporter)
                run = session(proto)
                feed = run.get_inputs()[0].name
                given = {f"x{n}": draw.numpy() for n, draw in enumerate(draws)}
                given |= {f"out{n}": run.run(None, {feed: draw.numpy()})[0] for n, draw in enumerate(draws)}
            except Exception as error:  # noqa: BLE001 - whatever the exporter says is the result
                refusal = one_line(_root(error))
            else:
                refusal = ""
                break
        if refusal:
            add("timm-refused", {"name": name, "exporter": exporter, "why": refusal})
            continue
        file.write_bytes(proto.SerializeToString())
        np.savez(beside, **given, **arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("size", type=int)
    parser.add_argument("exporters", nargs="+", choices=EXPORTERS)
    parser.add_argument("--img-size", action="store_true", help="the model is told the size when it is made")
    chosen = parser.parse_args()
    prepare(chosen.name, chosen.size, chosen.img_size, chosen.exporters)
