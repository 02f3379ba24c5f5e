"""Find which of a model's outputs holds the class scores, and what kind of scores they are."""

from __future__ import annotations

import re

import numpy as np
from torch import Tensor

from ..core.arrays import Array
from ..core.errors import OnnxcakeError, TeacherError, UnsupportedTeacher, UsageError
from ..core.remedies import around
from ..core.text import printable, shown
from ..graph.build_log import Blocked
from ..graph.convert import Converted
from ..graph.head_and_tail import Tail, tail
from ..graph.values import Depends
from .signature import OutputKind, Task

_SCORES = "Choose the value with the class scores with --output NAME; without one, the file cannot be a teacher."
_AROUND = around("without this operator")
_BEFORE = "Choose the tensor before it: --output {}."
_SEARCHED = 64  # values before an output among which scores are looked for
_NAMED = 8  # obstacles or names in one message
_WHY = 200  # characters of a reason, which may quote the file


def choose_output(graph: Converted, file: str) -> str:
    """Choose the value that holds the class scores; return its safe name.

    Raises:
        UnsupportedTeacher: if none can, or several may; the message gives the reason for each.
    """
    asked = [graph.safe.chosen] if graph.safe.chosen is not None else list(graph.safe.outputs)
    fit: list[str] = []
    reasons: list[str] = []
    blocked: dict[Blocked, None] = {}  # in order, each once
    remedy = _SCORES
    for name in asked:
        blockers = graph.blockers(name) if name not in graph.values else []
        if blockers:
            blocked.update(dict.fromkeys(blockers))
            continue
        why, better = _why_unfit(graph, name)
        if why is None:
            fit.append(name)
        else:
            reasons.append(f"output {graph.safe.name_of(name)} {why}")
            remedy = better or remedy
    # Of logits and their softmax, both outputs, the logits say more.
    tails = {name: tail(graph, name) for name in fit}
    fit = [name for name in fit if tails[name].logits == name or tails[name].logits not in tails] or fit
    if len(fit) > 1:
        matrices = [name for name in fit if graph.values[name].seen[0].dim() == 2]
        fit = matrices if len(matrices) == 1 else fit
    if len(fit) > 1:
        ended = [name for name in fit if tails[name].kind in ("softmax", "log_softmax", "sigmoid")]
        fit = ended if len(ended) == 1 else fit
    if len(fit) == 1:
        return fit[0]
    if blocked:
        raise blocked_error(graph, list(blocked), file)
    if fit:
        names = ", ".join(f"{graph.safe.name_of(n)} {_shape_in_words(graph, n)}" for n in fit[:_NAMED])
        names += f" and {len(fit) - _NAMED} more" if len(fit) > _NAMED else ""
        raise UnsupportedTeacher(
            f"it is not plain which output holds the class scores: {names}",
            where=file,
            remedy=f"Choose one with --output NAME, such as --output {graph.safe.name_of(fit[0])}.",
        )
    raise UnsupportedTeacher("; ".join(reasons[:_NAMED]) or "it has no outputs", where=file, remedy=remedy)


def blocked_error(graph: Converted, blocked: list[Blocked], file: str) -> TeacherError:
    """Word one error for all nodes that could not be converted."""
    kinds: dict[str, list[Blocked]] = {}
    for one in blocked:
        kinds.setdefault(f"{shown(one.op)[1:-1]}: {printable(one.why)[:_WHY]}", []).append(one)
    lines = []
    for what, ones in kinds.items():
        names = ", ".join(shown(graph.safe.node_names.get(one.node, one.node)) for one in ones[:3])
        lines.append(f"{what} (at {names}{f' and {len(ones) - 3} more' if len(ones) > 3 else ''})")
    rest = f"; and {len(lines) - _NAMED} more kinds" if len(lines) > _NAMED else ""
    remedies = list(dict.fromkeys(one.remedy for one in blocked if one.remedy))
    return UnsupportedTeacher(
        "it cannot be converted: " + "; ".join(lines[:_NAMED]) + rest,
        where=file,
        remedy=" ".join(remedies[:2]) or _AROUND,
    )


def _why_unfit(graph: Converted, name: str) -> tuple[str | None, str]:
    """Return why an output cannot hold class scores, and a remedy; (None, "") if it can."""
    maker = next((n for n in graph.safe.model.graph.node if name in n.output), None)
    value = graph.values.get(name)
    if value is None or maker is None:
        source = name == "input"
        return ("is the input itself" if source else "is a weight, the same for every input"), ""
    sample = value.seen[0]
    if not isinstance(sample, Tensor):
        inside = [one for one in maker.input if one in graph.values and _why_unfit(graph, one)[0] is None]
        names = ", ".join(graph.safe.name_of(one) for one in inside[:_NAMED])
        several = f"Choose one of its tensors, each a classifier of its own: --output {names}."
        return "is a sequence, not a tensor", several.replace(": --output", " with --output NAME:") if inside else ""
    if value.depends != Depends.DATA:
        return "is the same for every input", ""
    if not sample.dtype.is_floating_point:
        kind = str(sample.dtype).removeprefix("torch.")
        what = f"({kind} [{', '.join(map(str, _free_shape(graph, name)))}]) comes from {shown(maker.op_type)[1:-1]}"
        before = _scores_before(graph, name)
        return f"{what}, which has no gradient", "" if before is None else _BEFORE.format(graph.safe.name_of(before))
    end = tail(graph, name)
    if end.kind == "ranked":
        before = _BEFORE.format(graph.safe.name_of(end.logits))
        return "holds the largest scores in order (TopK), those of other classes for each input", before
    if end.kind == "unit_norm":
        return "is an embedding (its rows have length one), not class scores", _SCORES
    shape = sample.shape
    if not sample.numel():
        before = _scores_before(graph, name)
        what = f"{_shape_in_words(graph, name)} holds no numbers: the file itself cuts all of them away"
        return what, "" if before is None else _BEFORE.format(graph.safe.name_of(before))
    if sample.dim() > 2 and sum(size > 1 for size in shape[1:]) > 1:
        what = "one answer for each of many places (detection, segmentation or text), not one for each input"
        return f"{_shape_in_words(graph, name)} holds {what}", _SCORES
    if sample.dim() == 0 or shape[0] != graph.values["input"].seen[0].shape[0]:
        return f"{_shape_in_words(graph, name)} does not hold one row for each input", _SCORES
    return None, ""


def _scores_before(graph: Converted, name: str) -> str | None:
    """Find the nearest value before ``name`` that holds a row of numbers with a gradient for each input."""
    makers = {made: node for node in graph.safe.model.graph.node for made in node.output}
    reached, at = [name], 0
    while at < min(len(reached), _SEARCHED):
        node = makers.get(reached[at])
        at += 1
        for source in () if node is None else node.input:
            if source in reached or source not in graph.values:
                continue
            reached.append(source)
            if _is_a_row(graph, source):
                return str(source)
    return None


def _is_a_row(graph: Converted, name: str) -> bool:
    value = graph.values[name]
    if name == "input" or value.depends != Depends.DATA or not isinstance(value.seen[0], Tensor):
        return False
    sample = value.seen[0]
    rows = sample.dim() > 1 and sample.shape[0] == graph.values["input"].seen[0].shape[0]
    return (
        rows
        and sample.dtype.is_floating_point
        and sample.numel() > 0
        and sum(size > 1 for size in sample.shape[1:]) <= 1
    )


def _free_shape(graph: Converted, name: str) -> list[str | int]:
    first, second = (v.shape for v in graph.values[name].seen)
    return [a if a == b else "N" for a, b in zip(first, second, strict=True)]


def _shape_in_words(graph: Converted, name: str) -> str:
    return f"[{', '.join(map(str, _free_shape(graph, name)))}]"


def output_kind(
    rows: Array, shown_by_graph: Tail, name: str, task: Task | None, file: str, labelled: bool = False
) -> OutputKind:
    """Determine the kind of a classifier's answers from the graph, their values and the user's task.

    Args:
        rows: answers to random inputs [n, scores].
        name: the output's name in the file.
        labelled: whether another output holds a label for each input.

    Raises:
        UnsupportedTeacher: for one unbounded number, which may be a logit or a regression's result.
        UsageError: if ``task`` does not fit.
    """
    values, scores = rows.astype(np.float64), rows.shape[1]
    end = shown_by_graph.kind
    in_unit = not shown_by_graph.unbounded and bool((values >= 0).all() and (values <= 1).all())
    if scores == 1:
        if task not in (None, "binary"):
            raise _task_error(task, "one number for each input", file)
        if end == "sigmoid" or (in_unit and end is None and task is None and len(np.unique(values)) > 1):
            return "binary_probability"
        if task == "binary" or labelled or re.search(r"logit", name, re.IGNORECASE):
            return "binary_logit"
        raise UnsupportedTeacher(
            f"output {shown(name)} is one unbounded number for each input: a binary logit, or the result of a "
            "regression; the file does not say which",
            where=file,
            remedy="If it is a logit, say so with --task binary. Regressions cannot be used.",
        )
    if task is None and labelled and end == "sigmoid":
        task = "multiclass"  # one label for each input: the largest wins
    if task == "binary":
        raise _task_error(task, f"{scores} numbers for each input", file)
    if task == "multilabel":
        return "multilabel_probabilities" if end == "sigmoid" or (in_unit and end is None) else "multilabel_logits"
    if end in ("softmax", "log_softmax"):
        return "probabilities" if end == "softmax" else "log_probabilities"
    if end == "sigmoid":  # of competing classes, if the user says so: the largest wins
        return "multilabel_probabilities" if task is None else "logits"
    if (values >= 0).all() and np.allclose(values.sum(1), 1, atol=1e-4):
        return "probabilities"
    if (values <= 0).all() and np.allclose(np.exp(values).sum(1), 1, atol=1e-4):
        return "log_probabilities"
    return "multilabel_probabilities" if task is None and in_unit and values.std() > 0 else "logits"


def _task_error(task: Task | None, what: str, file: str) -> OnnxcakeError:
    return UsageError(f"--task {task} does not fit: the model gives {what}", where=file, remedy="Leave --task out.")
