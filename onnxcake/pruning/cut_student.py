"""Cut a student out of a teacher: measure scores and times, cut, and check the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import Array
from ..core.errors import UnsupportedTeacher
from ..core.random_fields import coarse
from ..core.rng import Key
from ..core.text import first_line
from ..runtime.latency import THREADS, latency_ms
from ..runtime.ort import Runtime, RuntimeRefused
from ..student.onnx_model import InitialModel
from ..teacher.checks import TOLERANCE, batches_for
from ..teacher.scores import Logits
from ..teacher.signature import Signature
from ..teacher.teacher import Teacher
from .goal import Goal, LowRank, Measurements, Pruned, Score, Shape
from .pruner import Pruner
from .reconstruct import reconstructed

# Of the energy that channels would take. Trained CNNs and MLPs lie at 0.1 to 0.6, and products are the better start and
# end; a ViT, whose matrices are nearly of full rank, at 0.7, and channels are.
_MUCH_LESS = 0.6
_DRAWS, _LEAST_DRAWS, _SAMPLES = 32, 4, 64
_PASSES = 3  # forward, and backward to weights and to inputs
_MULTIPLY_ADDS = 1e11  # of all draws together: seconds on one core
_SLOPES = 1e9  # likewise, as each weight's are added up along each of its axes


def cut_of(
    teacher: Teacher,
    goal: Goal,
    score: Score,
    key: Key,
    runtime: Runtime,
    drop_blocks: int = 0,
    low_rank: LowRank = "auto",
    like: Sequence[Shape] | None = None,
) -> Pruned:
    """Make the teacher's own graph smaller, and check the file in onnxruntime.

    Residual blocks are left out first, if requested. Then matrices are replaced by low-rank factors, if that removes
    much less of their energy than leaving out channels would, and fitted to the teacher's activations
    (`onnxcake.pruning.reconstruct`); else channels and the like are left out, and matrices that are constrained on both
    sides are replaced by low-rank factors where the goal cannot be reached otherwise.

    Args:
        score: by what is chosen what stays of channels and the like.
        key: what the choice is drawn from.
        drop_blocks: how many residual blocks are left out.
        low_rank: "tied" for products of matrices that are tied down on both sides alone.
        like: the shapes of another network's weights, as for `Pruner.like`; they stand for ``goal`` and blocks.

    Raises:
        NothingToCut: if there is nothing in the teacher that could be left out.
        UnsupportedTeacher: if the file that was written does not run, or not as it should.
    """
    signature = teacher.signature
    pruner = Pruner(teacher.opened, signature.input_name, signature.output_name)
    tools = Measurements(
        draws=partial(
            draws, signature=signature, multiply_adds=teacher.facts.multiply_adds, key=key, name=teacher.name
        ),
        latency_ms=lambda content: latency_ms(runtime.load(content, THREADS, arithmetic="host"), signature.input_shape),
    )
    if like is not None or drop_blocks:
        answers = partial(_answers, runtime=runtime, inputs=_comparison_inputs(teacher, key))
        pruner = pruner.drop_blocks(drop_blocks, answers) if like is None else pruner.match_blocks(like, answers)
    if like is not None:
        pruned = pruner.match_shapes(like, pruner.scores(score, key, tools))
    else:
        product = _cut_by_rank(pruner, goal, key, tools) if low_rank == "auto" else None
        if product is None:
            pruned = _cut_by_channels(pruner, goal, score, key, tools)
        else:
            pruned = replace(product, content=reconstructed(product.content, teacher, key))
    check(teacher, pruned, key, runtime)
    return pruned


def _cut_by_rank(pruner: Pruner, goal: Goal, key: Key, tools: Measurements) -> Pruned | None:
    """Cut the student by low-rank factors; return None where leaving out channels removes little more."""
    ranks = pruner.ranks(goal, tools)
    if ranks is None:
        return None
    by_cut = pruner.lost_by_cut(goal, pruner.scores("weights", key, tools), tools)
    return pruner.factorise(ranks).as_it_is() if pruner.lost_by_rank(ranks) < _MUCH_LESS * by_cut else None


def _cut_by_channels(pruner: Pruner, goal: Goal, score: Score, key: Key, tools: Measurements) -> Pruned:
    """Cut the student by leaving out channels and the like."""
    worth = pruner.scores(score, key, tools)
    if not pruner.reaches(goal, worth, tools):
        pruner = pruner.with_tied_factorised()
        worth = pruner.scores(score, key, tools)
    return pruner.prune_to(goal, worth, tools)


def _comparison_inputs(teacher: Teacher, key: Key) -> Array:
    """Draw the inputs that models are compared on."""
    most = int(_MULTIPLY_ADDS / _PASSES / max(teacher.facts.multiply_adds, 1)) // _LEAST_DRAWS
    return synthetic(teacher.signature, max(2, min(_SAMPLES, most)), key.at("looks")).numpy()


def _answers(content: bytes, runtime: Runtime, inputs: Array) -> Array:
    """Compute a model's answers."""
    session = runtime.load(content)
    answers = session.run_in_batches(inputs)
    session.close()
    return answers


# What is worth keeping


def draws(content: bytes, signature: Signature, multiply_adds: int, key: Key, name: str) -> Iterator[dict[str, Array]]:
    """Compute the contribution of a model's weights to its answers: see `pruning.scores.from_responses`.

    z is the sum of ±logit / √classes over the inputs and classes of a draw, the signs random.

    Args:
        content: the model.
        signature: of its input and output.
        multiply_adds: for one input; of a large model there are fewer draws, of fewer inputs.
        key: what inputs and signs are drawn from.
        name: the model's name in messages.

    Yields:
        of each weight, by its name in the model, w · ∂z/∂w.
    """
    start = InitialModel.like(content, signature, name)
    learnt, logits = start.learn(), Logits(start.kind, start.before)
    weights = {learnt.names[own]: weight for own, weight in learnt.graph.named_parameters() if weight.numel() > 1}
    number, samples = _amounts(multiply_adds, learnt.parameters)
    for draw in range(number):
        inputs = synthetic(signature, samples, key.at("inputs", draw), draw * samples)
        answers = logits(learnt.graph(inputs))
        coins = torch.randint(2, answers.shape, generator=key.at("signs", draw).generator())
        z = ((2 * coins - 1) * answers).sum() / math.sqrt(answers.shape[1])
        slopes = torch.autograd.grad(z, list(weights.values()), materialize_grads=True)
        yield {
            called: (weight.detach() * slope).numpy()
            for (called, weight), slope in zip(weights.items(), slopes, strict=True)
        }


def _amounts(multiply_adds: int, parameters: int) -> tuple[int, int]:
    """Choose the number of draws, and of inputs of each, within the budget; inputs are reduced first."""
    inputs = _MULTIPLY_ADDS / (_PASSES * max(multiply_adds, 1))
    number = max(_LEAST_DRAWS, int(min(_DRAWS, inputs, _SLOPES / max(parameters, 1))))
    return number, max(1, min(_SAMPLES, int(inputs / number)))


def synthetic(signature: Signature, count: int, key: Key, first: int = 0) -> Tensor:
    """Draw inputs without data [count, …], as the file takes them: normal noise, and every other image a smooth one.

    Args:
        first: the number of the first one; odd ones are smooth.
    """
    draw = key.generator()
    x = torch.randn(count, *signature.shape, generator=draw)
    smooth = torch.arange(first, first + count) % 2 == 1
    if signature.is_image and smooth.any():
        x[smooth] = coarse(x[smooth], draw)
    return signature.whole(signature.to_input(signature.within(x)))


# How fast it is


# Whether it is right


def check(teacher: Teacher, pruned: Pruned, key: Key, runtime: Runtime) -> None:
    """Check that the file runs at any batch, and answers as the teacher if nothing was left out.

    Raises:
        UnsupportedTeacher: if not.
    """
    signature = teacher.signature
    fewer, batch = batches_for(teacher.facts.multiply_adds)
    inputs = synthetic(signature, batch, key.at("check")).numpy()
    try:
        session = runtime.load(pruned.content)
        answers, first = session.run(inputs), session.run(inputs[:fewer])
        session.close()
        expected = (
            answers if pruned.parameters[1] < pruned.parameters[0] else _teacher_answers(teacher, inputs, runtime)
        )
    except RuntimeRefused as error:
        raise _unsound_error(teacher, f"onnxruntime refuses it: {first_line(error)}") from error
    shape = (batch, *((signature.scores,) if signature.output_shape is None else signature.output_shape))
    if answers.shape != shape:
        raise _unsound_error(teacher, f"it answers in the shape {list(answers.shape)}, not {list(shape)}")
    if not _same_answers(answers, expected):
        raise _unsound_error(teacher, "nothing is left out of it, and it answers otherwise")
    if not _same_answers(first, answers[:fewer]):
        raise _unsound_error(teacher, "its answer to one input depends on the others of its batch")


def _teacher_answers(teacher: Teacher, inputs: Array, runtime: Runtime) -> Array:
    """Compute the teacher's answers."""
    session = runtime.load(teacher.model, weights=teacher.weights)
    answers = session.run(inputs)
    session.close()
    return answers


def _same_answers(one: Array, other: Array) -> bool:
    """Tell whether answers are the same up to the rounding of sums in sixteen bits."""
    if one.shape != other.shape:
        return False
    finite = np.isfinite(other)  # a logarithm of zero
    scale = max(float(np.abs(other[finite]).max(initial=0)), 1e-2)
    return float(np.abs(one - other)[finite].max(initial=0)) <= TOLERANCE * scale


def _unsound_error(teacher: Teacher, why: str) -> UnsupportedTeacher:
    return UnsupportedTeacher(
        f"the smaller model that was cut out of it is unsound: {why}",
        where=teacher.name,
        remedy="This is a bug of onnxcake: please report it. Until then, name a student: -o student.architecture=mlp.",
    )
