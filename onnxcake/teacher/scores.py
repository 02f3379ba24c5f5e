"""Convert a file's kind of class scores to logits, and logits back to that kind.

Inside, every classifier answers with logits [n, classes]. A binary one of a single output z has the two logits
−z/2 and z/2, whose softmax is the sigmoid of z; a multi-label one has one logit for each label, and each is a
decision of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .signature import OutputKind, Signature


class Logits(nn.Module):
    """Convert the file's scores to logits [n, classes].

    Args:
        kind: of the scores.
        before: whether they are taken before the file's last Softmax or Sigmoid, that is, are logits already.
    """

    def __init__(self, kind: OutputKind, before: bool) -> None:
        super().__init__()
        self.kind, self.before = kind, before

    def forward(self, scores: Tensor) -> Tensor:
        rows = scores.reshape(len(scores), -1)
        if not self.before:
            rows = _inverse_squash(rows, self.kind)
        if self.kind.startswith("binary"):
            rows = torch.cat([-rows / 2, rows / 2], 1)
        return rows


def _inverse_squash(rows: Tensor, kind: OutputKind) -> Tensor:
    """Invert softmax or sigmoid: return numbers that give ``rows`` back under it.

    Probabilities determine logits up to one number in a row; the row's mean is put at 0, where a network's logits
    tend to have theirs, so that losses on logits can be used.
    """
    if kind in ("probabilities", "log_probabilities"):
        logs = rows if kind == "log_probabilities" else rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
        return logs - logs.mean(1, keepdim=True)
    if kind in ("binary_probability", "multilabel_probabilities"):
        return rows.logit(torch.finfo(rows.dtype).eps)
    return rows


class Answer(nn.Module):
    """Convert logits [n, classes] to the file's own kind and shape of output."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.kind = signature.output_kind
        row = (signature.scores,)
        self.shape = row if signature.output_shape is None else signature.output_shape
        self.reshaped = self.shape != row

    def forward(self, logits: Tensor) -> Tensor:
        kind = self.kind
        if kind.startswith("binary"):
            logits = logits[:, 1:] - logits[:, :1]
        if kind == "probabilities":
            logits = F.softmax(logits, 1)
        elif kind == "log_probabilities":
            logits = F.log_softmax(logits, 1)
        elif kind in ("binary_probability", "multilabel_probabilities"):
            logits = logits.sigmoid()
        return logits.reshape(-1, *self.shape) if self.reshaped else logits


def logits_to_output(signature: Signature) -> nn.Module:
    """Build the module from logits to the file's own kind of output."""
    answer = Answer(signature)
    return nn.Identity() if signature.output_kind == "logits" and not answer.reshaped else answer
