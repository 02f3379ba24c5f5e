"""Declare the options that several commands share, and parse them."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import typer

from ..core import waiting
from ..core.errors import OnnxcakeError, UsageError
from ..core.files import is_there
from ..core.number_files import SUFFIXES, read_numbers

TeacherArgument = Annotated[Path, typer.Argument(metavar="TEACHER", help="The classifier, an .onnx file.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="A recipe's name or YAML file; else layercake.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run's folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", metavar="KEY=VALUE", help="Goes before the recipe, as student.epochs=5."),
]
ProbeOption = Annotated[
    Path | None,
    typer.Option("--probe", help="Real inputs to compare on: arrays, tables, pictures or a folder of them."),
]
InputOption = Annotated[
    str | None, typer.Option("--input", metavar="NAME", help="The value to optimise: an input, or one inside.")
]
OutputOption = Annotated[str | None, typer.Option("--output", metavar="NAME", help="The value with the class scores.")]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="[NAME=]N,C,H,W",
        help="The input's sizes, batch included, where the file leaves them open; NAME= for another input.",
    ),
]
TaskOption = Annotated[str | None, typer.Option("--task", help="multiclass, binary or multilabel.")]
RangeOption = Annotated[
    str | None,
    typer.Option(
        "--range",
        "--ranges",
        metavar="LO,HI|FILE",
        help="Lowest and highest raw input value, or a file of two columns: those of each feature.",
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="VALUES|FILE",
        help="Normalisation outside the file: mean; one value, or one for each channel, feature or pixel.",
    ),
]
StdOption = Annotated[
    str | None, typer.Option("--std", metavar="VALUES|FILE", help="Normalisation outside the file: deviation.")
]
HoldOption = Annotated[
    list[str] | None,
    typer.Option(
        "--hold", metavar="NAME=VALUE", help="Another input, held at a number, true, false, 1,2,3 or a file's numbers."
    ),
]
BudgetOption = Annotated[
    str | None, typer.Option(help="Time for a run on this machine, as 90s, 3m or 1.5h: the recipe is scaled to it.")
]
PassesOption = Annotated[str | None, typer.Option(help="Teacher passes with gradient for a run, as 1e6: likewise.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
SeedOption = Annotated[int, typer.Option("--seed", help="All randomness depends on it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; all else on stderr.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Real inputs to learn from, for recipes that ask for them; as a probe.")
]
StudentOption = Annotated[
    Path | None,
    typer.Option("--student", metavar="FILE", help="The .onnx that learns, with -o student.architecture=onnx."),
]
Parsed = Callable[[], Any]  # what `teacher_options` gives a command
StatsOption = Annotated[
    Path | None, typer.Option("--stats", help="Statistics that the data's owner recorded: `onnxcake record`.")
]


def tell(report: Any, as_json: bool, check: Callable[[], None] = lambda: None) -> None:
    """Print a report; write the error that ``check`` raises to stderr alone: one object is on stdout already."""
    if as_json:
        print_json(report.as_dict())
    else:
        report.show()
    try:
        check()
    except OnnxcakeError as error:
        print(f"onnxcake: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))  # in ASCII: a teacher's names may hold what a terminal obeys


def begin(task: str, *, sandbox: bool = True) -> None:
    """Write a command's first line, before anything slow is imported.

    Args:
        task: what the command does, with the file's name.
        sandbox: start the process that looks at the teacher: it loads its libraries while this one does too.
    """
    waiting.begin(task)
    if sandbox:
        from ..runtime.process import shared

        shared("onnxcake.teacher.sandbox").start()


def options_of(
    input_: InputOption = None,
    output: OutputOption = None,
    shape: ShapeOption = None,
    task: TaskOption = None,
    range_: RangeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    hold: HoldOption = None,
) -> Any:
    """Parse what the user says of a teacher's file to its `TeacherOptions`, which are imported here: that takes long.

    Raises:
        UsageError: if an option is written otherwise than its help says.
    """
    own, shapes = _shapes(shape or ())
    held: dict[str, Any] = {}
    for pair in hold or ():
        name, equals, value = _pair(pair)
        if not (name and equals):
            raise UsageError(f"--hold {pair!r} is not NAME=VALUE", remedy="Write --hold NAME=VALUE.")
        if name in held:
            raise UsageError(f"--hold {name}= is given twice", remedy="Give it once.")
        held[name] = _held(name, value)

    from ..teacher.options import TeacherOptions

    return TeacherOptions.of(
        input=input_,
        output=output,
        shape=own,
        constants=held,
        shapes=shapes,
        task=task,
        range=None if range_ is None else _ends(range_),
        mean=None if mean is None else _values("--mean", mean),
        std=None if std is None else _values("--std", std),
    )


_ABOUT_THE_FILE = tuple(inspect.signature(options_of, eval_str=True).parameters.values())


def teacher_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `options_of` in place of its parameter ``options``.

    The command is called with a function that parses them, so that it can write its first line before it loads what
    parsing needs.
    """
    own = inspect.signature(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        said = {each.name: given.pop(each.name) for each in _ABOUT_THE_FILE}
        command(**given, options=functools.partial(options_of, **said))

    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, each in own.parameters.items():
        parameters += _ABOUT_THE_FILE if name == "options" else [each.replace(annotation=hints[name])]
    usual = [each.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in parameters]
    run.__signature__ = own.replace(parameters=usual)  # type: ignore[attr-defined] # typer reads it
    run.__annotations__ = {each.name: each.annotation for each in usual}
    return run


def _ends(text: str) -> Any:
    """Read a --range: two numbers, or a file with the lowest and highest of each feature in two columns or rows."""
    ends = np.asarray(_values("--range", text, "0,1"))
    columns = ends.T if ends.ndim == 2 and ends.shape[1] == 2 else ends
    if len(columns) != 2 or columns.ndim > 2:
        raise UsageError(
            f"--range {text!r} is not two numbers",
            remedy="Write --range 0,1, or give a file of two columns, the lowest and highest value of each feature.",
        )
    rows = ends.shape == (2, 2) and bool((columns[0] > columns[1]).any())
    return ends if rows else columns


def _values(option: str, text: str, example: str = "0.5,0.5,0.5") -> Any:
    """Read numbers with commas between, or a file of numbers."""
    if Path(text).suffix.lower() in SUFFIXES or Path(text).is_file():
        return read_numbers(Path(text))
    return _numbers(option, text, f"{example}, or the name of a file ({', '.join(SUFFIXES)})")


def _numbers(option: str, text: str, example: str = "0.5,0.5,0.5") -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is not a list of numbers",
            remedy=f"Write {option} {example}.",
        ) from error


def _pair(text: str) -> tuple[str, str, str]:
    """Split NAME=VALUE; a name may hold a =, and so may a file's."""
    name, equals, value = text.rpartition("=")
    head, found, file = text.partition("=")
    return (head, found, file) if is_there(Path(file)) and not is_there(Path(value)) else (name, equals, value)


def _shapes(said: Iterable[str]) -> tuple[tuple[int, ...] | None, dict[str, tuple[int, ...]]]:
    """Read what is said with --shape: of the chosen input, and of inputs by name."""
    own: tuple[int, ...] | None = None
    named: dict[str, tuple[int, ...]] = {}
    for text in said:
        name, _, sizes = text.rpartition("=")
        example = text.removesuffix(sizes) + ",".join(map(_size_or_one, sizes.split(",")))
        numbers = _numbers("--shape", sizes, example)
        if not all(number.is_integer() for number in numbers):
            raise UsageError(f"--shape {sizes!r} is not a list of whole numbers", remedy=f"Write --shape {example}.")
        shape = tuple(int(number) for number in numbers)
        if named.get(name, own if not name else None) not in (None, shape):
            raise UsageError(
                f"--shape is given twice{f' for {name}' if name else ''}",
                remedy="Give it once for each input, other inputs by name: --shape NAME=SIZES.",
            )
        if name:
            named[name] = shape
        else:
            own = shape
    return own, named


def _size_or_one(text: str) -> str:
    return text.strip() if text.strip().isdecimal() else "1"


def _held(name: str, text: str) -> Any:
    """Read the value of a --hold: true, false, a number, numbers with commas between, or a file of numbers."""
    words = {"true": True, "false": False}
    try:
        values = [words[part] if (part := one.strip().lower()) in words else _number(part) for one in text.split(",")]
    except ValueError as error:
        if Path(text).suffix.lower() in SUFFIXES or is_there(Path(text)):
            return read_numbers(Path(text))
        raise UsageError(
            f"--hold {name}= {text!r} is no number, no list of numbers and no file of numbers",
            remedy=f"Write --hold {name}=1, true, false, 1,2,3 or the name of a file ({', '.join(SUFFIXES)}).",
        ) from error
    return values[0] if len(values) == 1 else values


def _number(text: str) -> float:
    return int(text) if text.lstrip("+-").isdecimal() else float(text)
