"""Train a student that is an ONNX model in the model's own weights, and write it as the very same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.rng import Key
from ..onnxfile.self_contained import written
from ..teacher.scores import Logits
from ..teacher.signature import Signature
from .onnx_model import InitialModel
from .student import Student

_SETTLED_ON = 256  # inputs that a fresh student's statistics are of


class OnnxStudent(Student):
    """Compute logits of the teacher's inputs by an ONNX model.

    BatchNormalization keeps the statistics of the file; its scale and shift are trained.

    Args:
        start: the model.
        signature: the teacher's.
        fresh: key that the weights are drawn from, in place of the model's. Statistics are then those of noise.
        taps: values inside, by the model's own names, that are recorded as it learns.

    Raises:
        UsageError: if it has no such value.
    """

    def __init__(
        self, start: InitialModel, signature: Signature, *, fresh: Key | None = None, taps: Sequence[str] = ()
    ) -> None:
        learnt = start.learn(taps)
        super().__init__(signature, learnt.graph)
        self.start, self.taps, self._learnt = start, tuple(taps), learnt
        self.logits = Logits(start.kind, start.before)
        self._values: dict[str, Tensor] = {}
        # Where nothing is trained, a shift that stays 0 is what optimisers are given.
        self.still = nn.Parameter(torch.zeros(())) if start.still else None
        learnt.graph.requires_grad_(not start.still)
        if fresh is not None:
            with fresh.at("student", "weights").as_default():
                learnt.draw(signature.to_input(torch.randn(_SETTLED_ON, *signature.shape)))

    def forward(self, inputs: Tensor) -> Tensor:
        scores = self.net(inputs)
        if self.taps:
            scores, *values = scores
            self._values = dict(zip(self.taps, values, strict=True))
        logits: Tensor = self.logits(scores)
        return logits if self.still is None else logits + 0 * self.still

    def record(self, modules: Sequence[str]) -> OnnxStudent:  # type: ignore[override] # all that is asked is `pop_values`
        """Return itself, as it records the ``modules``: values of the model that were named when it was made."""
        assert tuple(modules) == self.taps, "it was not made to look at these"
        return self

    def pop_values(self) -> Mapping[str, Tensor]:
        """Return the values of ``taps`` at the last call, and forget them, so that their graph can be freed."""
        values, self._values = self._values, {}
        return values

    def content(self) -> bytes:
        """Write the model with the present weights, under the teacher's names, with the teacher's kind of output."""
        return written(self.start.content, self._learnt.values(), self.start.ends(self.signature))
