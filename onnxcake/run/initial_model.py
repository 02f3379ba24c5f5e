"""Find the model that a student begins as: one that the user gives, or one that is cut out of the teacher."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..core import files, json_files
from ..core.errors import OnnxcakeError, UnsupportedTeacher, UsageError
from ..core.rng import Key
from ..evaluate.agreement import compare
from ..pruning.cut_student import cut_of, synthetic
from ..pruning.goal import NothingToCut
from ..pruning.pruner import Pruner
from ..recipe.architecture import ONNX, Auto
from ..recipe.recipe import Recipe
from ..runtime.ort import Runtime
from ..student.onnx_model import InitialModel
from ..teacher.facts import Facts
from ..teacher.teacher import Teacher
from . import folder as runs

# Parameters up to which a teacher of which nothing can be cut, or only too much, is its own student: 40 kB.
_SMALL = 10_000
# Those of one layer or of features of unknown scale, and those whose numbers lie in an operator's attributes, as an
# SVM's do, and can be neither cut nor trained: up to 400 kB.
_FIXED = 100_000
_IN_ATTRIBUTES = {"SVMClassifier", "SVMRegressor", "LinearClassifier", "LinearRegressor"}
ALIKE = 0.95  # of inputs, on which a small teacher's student is to agree with it, or is the teacher itself
_SAMPLES = 512


@dataclass(frozen=True)
class Initial:
    """Hold what a student begins as.

    Attributes:
        start: the model; None for a named architecture.
        key: a digest over what it was cut by; "" if it was not cut.
        note: why it could not be cut, in words for the user; "" if it could, or was not asked for.
    """

    start: InitialModel | None = None
    key: str = ""
    note: str = ""

    def keep(self, folder: Path) -> None:
        """Put it into a run's folder, so that the run needs nothing else and is not cut anew."""
        if self.start is not None:
            files.write_atomic(folder / runs.START, self.start.content)
        if self.key:
            digest = None if self.start is None else self.start.digest
            files.write_json(folder / runs.CUT, {"key": self.key, "sha256": digest, "note": self.note})


def initial_of(
    recipe: Recipe, facts: Facts, given: Path | None, folder: Path, seed: int, teacher: Teacher | None = None
) -> Initial:
    """Read or cut the model that the student of a recipe begins as.

    Args:
        facts: of the teacher.
        given: the file that the user names; without one, what an earlier start has kept in ``folder``.
        seed: of the run; what is cut may depend on it.
        teacher: to cut out of; None where only a set is given.

    Raises:
        UsageError: if a file is given and not asked for, or the other way round, or does not fit the teacher; or if
            there is nothing to cut out of.
    """
    name = recipe.student.architecture.name
    if given is not None and name != ONNX:
        raise UsageError(
            f"--student is for a recipe whose student is an ONNX model, and this one names {name}",
            remedy=f"Add -o student.architecture={ONNX}, or leave it out.",
        )
    if name == ONNX:
        path = folder / runs.START if given is None else given
        if given is None and not path.exists():
            remedy = "Add --student FILE, or name another architecture, such as -o student.architecture=auto."
            raise UsageError("the recipe's student is an ONNX model, and none is given", remedy=remedy)
        return Initial(InitialModel.read(path, facts.signature))
    if name != "auto" or recipe.student.quantise is not None:  # int8 students are built of layers
        return Initial()
    goal = Auto(**recipe.student.architecture.keys())
    key = files.sha256(files.canonical([facts.digest, asdict(goal), seed]))
    kept = _kept(folder, key, facts)
    if kept is not None:
        return kept
    if teacher is None:
        raise UsageError(
            "the recipe's student is cut out of the teacher, and only a set is given",
            where=folder,
            remedy="Cut it with `onnxcake shrink`, and give it: --student FILE -o student.architecture=onnx.",
        )
    return _cut(teacher, goal, key, seed)


def _cut(teacher: Teacher, goal: Auto, key: str, seed: int) -> Initial:
    try:
        with Runtime() as runtime:
            like = goal.shapes(teacher.signature)
            pruned = cut_of(teacher, goal, goal.score, Key(seed), runtime, goal.drop_blocks, goal.low_rank, like)
            if _layers(teacher) == 1 and teacher.facts.parameters <= _SMALL:
                _keep_alike(teacher, pruned.content, Key(seed), runtime)
    except UnsupportedTeacher as error:
        if isinstance(error, NothingToCut) and (own := whole(teacher, goal)) is not None:
            note = f"student: {error.what}; it is the teacher's own graph, whole, as no other of its size answers alike"
            return Initial(own, key, note)
        instead = "one of the teacher's family is named instead" if goal.named is None else "it begins from noise"
        return Initial(None, key, f"student: {error.what}; {instead}")
    return Initial(InitialModel.like(pruned.content, teacher.signature, runs.START), key)


def _layers(teacher: Teacher) -> int:
    """Count the products with weights that the longest way through a teacher's graph has; side by side they are one."""
    safe, longest = teacher.opened.safe, dict[str, int]()
    for node in safe.cut(teacher.opened.output).graph.node:
        before = max((longest.get(name, 0) for name in node.input), default=0)
        longest.update(dict.fromkeys(node.output, before + (node.op_type in ("Gemm", "MatMul", "Conv"))))
    return longest.get(teacher.opened.output, 0)


def _keep_alike(teacher: Teacher, content: bytes, key: Key, runtime: Runtime) -> None:
    """Make sure that a linear model without some of its rank or features still names the teacher's classes.

    Raises:
        NothingToCut: if not: its answers hang on what was left out, and no layer is left that could make up for it.
    """
    signature = teacher.signature
    inputs = synthetic(signature, _SAMPLES, key.at("alike")).numpy()
    sides = (runtime.load(teacher.model, weights=teacher.weights), runtime.load(content))
    answers = [session.run_in_batches(inputs) for session in sides]
    for session in sides:
        session.close()
    kinds = (signature.output_kind, signature.output_kind)
    if compare(answers[0], answers[1], None, kinds).agreement.value < ALIKE:
        raise NothingToCut("nothing can be left out of its only layer", where=teacher.name, remedy="")


def whole(teacher: Teacher, goal: Auto) -> InitialModel | None:
    """Take the teacher's own graph, if it is so small that a stranger gains nothing; None if it is larger or unfit."""
    if goal.named is not None or teacher.facts.parameters > _FIXED:
        return None
    signature = teacher.signature
    try:
        content = Pruner(teacher.opened, signature.input_name, signature.output_name, whole=True).as_it_is().content
        start = InitialModel.like(content, signature, runs.START, still=True)
        start.check(signature)
        learns = start.parameters() > 0
        # What one layer loses, none makes up for; where no scale of features is known, nothing tells what is lost.
        most = _FIXED if _layers(teacher) == 1 or signature.of_unknown_scale else _SMALL
        if (teacher.facts.parameters > most) if learns else not _IN_ATTRIBUTES & teacher.facts.operators.keys():
            return None
    except OnnxcakeError:
        return None
    return start


def _kept(folder: Path, key: str, facts: Facts) -> Initial | None:
    """Read what an earlier start has cut by the same key, if it is as it was.

    Raises:
        StoreError: if ``start.json`` does not tell what was cut.
    """
    path, model = folder / runs.CUT, folder / runs.START
    told = json_files.read(path, _Cut, json_files.AGAIN) if path.exists() else None
    if told is None or told.key != key:
        return None
    if told.sha256 is None:
        return Initial(None, key, told.note)
    try:
        start = InitialModel.like(model.read_bytes(), facts.signature, runs.START, still=bool(told.note))
    except OSError:
        return None
    return Initial(start, key, told.note) if start.digest == told.sha256 else None


@dataclass(frozen=True)
class _Cut:
    """Hold the content of ``start.json``."""

    __pydantic_config__ = json_files.EXACT
    key: str
    sha256: str | None
    note: str
