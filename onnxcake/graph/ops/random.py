"""Refuse operators that draw random numbers: a teacher has to give the same answer twice."""

from __future__ import annotations

from ...core.remedies import around
from ..node import Node
from ..registry import op
from ..values import Function, Obstacle


@op("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
def refuse(node: Node) -> Function:
    raise Obstacle(
        "it draws random numbers, so that two runs on the same input would differ",
        around("in eval mode"),
    )
