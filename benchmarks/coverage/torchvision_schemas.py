"""Lets ``import torchvision`` work where its compiled part was made for another build of torch.

timm imports torchvision but needs none of its compiled operators. Where those are missing, the import ends at
"operator torchvision::nms does not exist": declaring the operators' names, with nothing behind them, is enough.
"""

from __future__ import annotations

import torch

_FORWARD = ("nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
_BACKWARD = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
_declared: list[torch.library.Library] = []  # a library's declarations go when it is collected


def declare() -> None:
    """Declares the operators that torchvision itself could not; does nothing where they are there."""
    names = [*_FORWARD, *(f"_{name}_backward" for name in _BACKWARD)]
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in names:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor input) -> Tensor")
    _declared.append(library)
