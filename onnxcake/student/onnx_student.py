"""A student that is an ONNX model: trained in the model's own weights, and written as the very same model."""

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
    """Takes what the teacher takes, gives logits.

    BatchNormalization keeps the statistics of the file; its scale and shift are trained.

    Args:
        start: the model.
        signature: the teacher's.
        fresh: what the weights are drawn from, in place of those of the model. Statistics are then those of noise.
        taps: values inside, by the model's own names, that are looked at as it learns.

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

    def watch(self, modules: Sequence[str]) -> OnnxStudent:  # type: ignore[override] # all that is asked is `taken`
        """Itself, as what keeps the ``modules``, values of the model that it was made to look at."""
        assert tuple(modules) == self.taps, "it was not made to look at these"
        return self

    def taken(self) -> Mapping[str, Tensor]:
        """The values of ``taps`` at the last call; forgotten here, so that its graph can go."""
        values, self._values = self._values, {}
        return values

    def content(self) -> bytes:
        """The model with the present weights, under the teacher's names, with the teacher's kind of output."""
        return written(self.start.content, self._learnt.values(), self.start.ends(self.signature))
