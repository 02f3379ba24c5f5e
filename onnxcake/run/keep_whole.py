"""Put a small teacher of a table in the place of a student that was cut out of it and agrees with it too little.

Of a table nothing is known but what the file shows of its features: a network of a few kilobytes may hang on a number
that was cut, and halving it saves nobody anything. A student of larger teachers, pictures and texts stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..core.rng import Key
from ..evaluate.agreement import compare
from ..evaluate.without_data import families
from ..recipe.architecture import Auto
from ..runtime.ort import Runtime
from ..student.onnx_student import OnnxStudent
from ..student.student import Student
from .initial_model import ALIKE, whole
from .prepare import Job

# Of a table whose features' values nobody knows. An MLP of 0.97 on values of every scale had 0.36 on real rows: there
# it hung on differences of large numbers. What was cut is to be the same function.
_SAME = 0.999


def kept_whole(job: Job, student: Student, runtime: Runtime, say: Callable[[str], None]) -> tuple[Job, Student]:
    """Compare a student that was cut out of a small teacher of a table with it; the teacher itself where they differ.

    They are compared on the real inputs of ``--probe`` where there are any, else on the families of
    `without_data.families`. Whoever asks for a size gets it.

    Args:
        student: as it was trained.
        say: is told why the teacher itself is taken.

    Returns:
        (the job, its notes saying why the student is the teacher's own graph, if it is; the student.)
    """
    start, teacher, signature = job.student_spec.start, job.teacher, job.teacher.signature
    if not job.begins.key or start is None or start.still or not isinstance(student, OnnxStudent):
        return job, student
    goal = Auto(**job.run.recipe.student.architecture.keys())
    teachers = whole(teacher, goal) if not goal.is_asked and len(signature.input_shape) == 1 else None
    if teachers is None:
        return job, student
    alike, least = _agreement(job, student, runtime), ALIKE
    if job.probe is None and signature.of_unknown_scale:
        least = _SAME
    if alike >= least:
        return job, student
    size = start.parameters()
    seen = "the real inputs" if job.probe is not None else "inputs of many kinds"
    doubt = (
        "the file shows nothing of its features' values, and at theirs it may be far less; " if least > ALIKE else ""
    )
    note = (
        f"student: cut to {size:,} parameters, it would answer as its teacher does for {alike:.1%} of {seen} ({doubt}"
        f"at least {least:.1%} are asked for); so it is the teacher's own graph, whole, and nothing is gained "
        f"(-o 'student.architecture={{auto: {{max_params: {size}}}}}' cuts it nevertheless)"
    )
    say(note)
    student_spec = replace(job.student_spec, start=teachers, parameters=teachers.parameters())
    view = replace(job.view, notes=(*job.view.notes, note))
    return replace(job, student_spec=student_spec, view=view), student_spec.student(Key(job.run.seed))


def _agreement(job: Job, student: OnnxStudent, runtime: Runtime) -> float:
    """Compare a student with its teacher in onnxruntime: on real inputs, or the mean over families of others."""
    teacher, signature = job.teacher, job.teacher.signature
    kinds = (signature.output_kind, signature.output_kind)
    sides = (runtime.load(teacher.model, weights=teacher.weights), runtime.load(student.content()))
    made = families(signature, Key(job.run.seed).at("assessment")).values()
    found = []
    for inputs in made if job.probe is None else (job.probe.inputs,):
        asked, answered = (side.run_in_batches(inputs) for side in sides)
        found.append(compare(asked, answered, None, kinds).agreement.value)
    for side in sides:
        side.close()
    return sum(found) / len(found)
