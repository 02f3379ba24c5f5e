"""What re-implementations of the field got wrong, where no part's own test can see it: from the recipe to the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onnxcake.commands.extract import run
from onnxcake.core.progress import Progress
from onnxcake.recipe.recipe import Recipe
from onnxcake.run.prepare import Request
from onnxcake.run.student_spec import StudentSpec
from onnxcake.run.trial import prepare
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.teacher import Teacher

EXAMPLES = Path(__file__).parents[1] / "examples"
DIGITS, PROBE = EXAMPLES / "digits.onnx", EXAMPLES / "digits-test.npz"
SHORT = [
    "synthesis.batch=64",
    "synthesis.rounds=60",
    "synthesis.source.generator.width=8",
    "student.architecture={cnn-small: {width: 8, depth: 2}}",
]


class Shares(nn.Module):
    """Probabilities by arithmetic of its own: no Softmax is left in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grown = self.inner(x).exp()
        return grown / grown.sum(1, keepdim=True)


def test_logits_that_are_known_up_to_a_constant_are_compared_without_it(export: Any, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Shares()
    teacher = Teacher.load(export(net, (4,), tmp_path / "shares.onnx"))
    assert teacher.signature.output_kind == "probabilities"
    logits = teacher.logits(torch.randn(8, 4))
    torch.testing.assert_close(logits.mean(1), torch.zeros(8), rtol=0, atol=1e-6)
    loss = StudentSpec.of(Recipe.load("dfad"), teacher.facts, 64, 0).regime.loss
    assert loss.l1 and loss.centred
    student, nobody = torch.randn(8, 3), torch.zeros(8, dtype=torch.int64)
    torch.testing.assert_close(loss(student + 5, logits, nobody), loss(student, logits, nobody))


def test_true_logits_are_compared_as_they_are() -> None:
    job = prepare(Request(DIGITS, "dfad", Path("unused"), SHORT, TeacherOptions.of(range=(0, 1))))
    assert job.teacher.signature.output_kind == "logits" and not job.student_spec.regime.loss.centred
    binary = replace(job.teacher.signature, output_kind="binary_logit", classes=2)
    facts = replace(job.teacher.facts, signature=binary)
    assert StudentSpec.of(Recipe.load("dfad", SHORT), facts, 64, 0).regime.loss.centred


def test_the_exported_student_normalises_by_what_it_learnt(runtime: Runtime, tmp_path: Path) -> None:
    """Not by the batch at hand: an answer is the same whatever the neighbours (the trap of Gaussian distillation)."""
    report = run(Request(DIGITS, "zskt", tmp_path, SHORT, TeacherOptions.of(range=(0, 1))), Progress(quiet=True))
    assert report.as_dict()["student"]["architecture"] == "cnn-small", "it has BatchNormalization"
    session = runtime.load((tmp_path / "student.onnx").read_bytes())
    inputs = np.load(PROBE)["images"][:16].astype(np.float32)
    together = session.run(inputs)
    alone = np.concatenate([session.run(one[None]) for one in inputs])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
    moved = session.run(np.concatenate([inputs[:1], np.ones_like(inputs[1:])]))
    np.testing.assert_allclose(moved[:1], together[:1], rtol=1e-4, atol=1e-4)


def test_the_last_student_is_reported_and_not_the_best(tmp_path: Path) -> None:
    """There is no data to choose by; most published figures are the best epoch on the test set."""
    jumping = [*SHORT, "student.optimiser={sgd: {lr: 0.3, momentum: 0.0}}", "student.learning_rate=constant"]
    missed = []
    for seed in (0, 1, 2):
        out, options = tmp_path / str(seed), TeacherOptions.of(range=(0, 1))
        report = run(Request(DIGITS, "dfad", out, jumping, options, probe=PROBE, seed=seed), Progress(quiet=True))
        points = [point["agreement"] for point in report.as_dict()["curve"]]
        assert report.as_dict()["agreement"]["probe"]["agreement"]["value"] == pytest.approx(points[-1], abs=1e-9)
        missed.append(max(points) - points[-1])
    assert max(missed) > 0, "the best is another"
