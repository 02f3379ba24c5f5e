"""The command: arguments → one call → exit code. No logic lives here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from . import __version__, interrupt
from .errors import Interrupted, OnnxcakeError, UsageError
from .progress import Progress

app = typer.Typer(
    name="onnxcake",
    help="A smaller student.onnx from any teacher.onnx, without data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a bug, 2 usage, 3 recipe, 4 teacher, 5 under the recipe's floor, 6 store, "
    "7 output, 75 try again, 130/143 interrupted (run again to go on).",
)
recipes_app = typer.Typer(no_args_is_help=True, help="The recipes that come with onnxcake.")
app.add_typer(recipes_app, name="recipes")

RecipeOption = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe's name or YAML file.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run's folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", metavar="KEY=VALUE", help="Goes before the recipe, as student.epochs=5."),
]
ProbeOption = Annotated[
    Path | None,
    typer.Option("--probe", help="Real inputs to compare on: .npz, .npy, .safetensors or a folder."),
]
InputOption = Annotated[
    str | None, typer.Option("--input", metavar="NAME", help="The value to optimise: an input, or one inside.")
]
OutputOption = Annotated[str | None, typer.Option("--output", metavar="NAME", help="The value with the class scores.")]
ShapeOption = Annotated[
    str | None, typer.Option("--shape", metavar="N,C,H,W", help="The input's sizes, where the file leaves them open.")
]
TaskOption = Annotated[str | None, typer.Option("--task", help="multiclass, binary or multilabel.")]
RangeOption = Annotated[
    str | None, typer.Option("--range", metavar="LO,HI", help="Lowest and highest raw input value.")
]
MeanOption = Annotated[
    str | None, typer.Option("--mean", help="Normalisation outside the file: mean, one value or one for each channel.")
]
StdOption = Annotated[str | None, typer.Option("--std", help="Normalisation outside the file: deviation.")]
HoldOption = Annotated[
    list[str] | None, typer.Option("--hold", metavar="NAME=VALUE", help="Another input, held at a value.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
SeedOption = Annotated[int, typer.Option("--seed", help="All randomness depends on it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; all else on stderr.")]


@app.command()
def extract(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="The classifier, an .onnx file.")],
    recipe: RecipeOption = None,
    out: OutOption = None,
    overrides: Overrides = None,
    input_: InputOption = None,
    output: OutputOption = None,
    shape: ShapeOption = None,
    task: TaskOption = None,
    range_: RangeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    hold: HoldOption = None,
    probe: ProbeOption = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
) -> None:
    """Make a student of a teacher. The same command again goes on where it stopped."""
    _start_airlock()
    options = _options_of(input_, output, shape, task, range_, mean, std, hold)

    from dataclasses import asdict

    from .extraction import look_ahead, run
    from .job import Request

    request = Request(
        teacher=teacher,
        recipe=recipe,
        out=out,
        overrides=overrides or (),
        options=options,
        probe=probe,
        device=device,
        seed=seed,
    )
    if dry_run:
        ahead = look_ahead(request, Progress())
        if as_json:
            _print_json(asdict(ahead))
        return
    report = run(request, Progress())
    _tell(report, as_json)
    report.check_floor()


@app.command()
def inspect(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="The classifier, an .onnx file.")],
    input_: InputOption = None,
    output: OutputOption = None,
    shape: ShapeOption = None,
    task: TaskOption = None,
    range_: RangeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    hold: HoldOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a teacher is, whether it can be used, and what is in the way."""
    _start_airlock()
    options = _options_of(input_, output, shape, task, range_, mean, std, hold)

    from .inspection import inspect as run_inspect

    found = run_inspect(teacher, options)
    if as_json:
        _print_json(found.data)
    else:
        found.show()
    if found.error is not None:
        print(f"onnxcake: {found.error}", file=sys.stderr)
        raise typer.Exit(found.error.exit_code)


@app.command()
def verify(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="An .onnx file.")],
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="Another .onnx file.")],
    probe: ProbeOption = None,
    store: Annotated[Path | None, typer.Option(help="Compare on the held-out batches of this run.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two classifiers in onnxruntime."""
    _start_airlock()
    from .verification import verify as run_verify

    _tell(run_verify(teacher, student, probe=probe, store=store), as_json)


@app.command()
def train(
    store: Annotated[Path, typer.Option(help="The folder of a run that has made a set.")],
    recipe: RecipeOption = None,
    out: OutOption = None,
    overrides: Overrides = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Train another student on a set that exists."""
    from .extraction import train as run_train

    report = run_train(store, recipe, out, overrides or (), seed, device, Progress())
    _tell(report, as_json)
    report.check_floor()


@recipes_app.command("list")
def list_recipes() -> None:
    """List the recipes by name and title."""
    from .recipe import Recipe, names

    for name in names():
        typer.echo(f"{name:14} {Recipe.load(name).title}")


@recipes_app.command("show")
def show_recipe(name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe's name.")]) -> None:
    """Print a recipe, comments included."""
    from .recipe import text_of

    typer.echo(text_of(name), nl=False)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"onnxcake {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """The ``onnxcake`` command."""
    # OpenMP threads that wait by spinning take the cores from whoever else computes on this machine, and a
    # second such process makes both many times slower. Read when torch is loaded, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(_exit_code(app))


def _exit_code(command: Callable[[], Any]) -> int:
    """Runs the command; tells what went wrong on stderr, and on stdout too if ``--json`` asks for an object."""
    try:
        with interrupt.handled():
            command()
    except SystemExit as end:  # typer's own: help, version, and usage with its message on stderr
        return end.code if isinstance(end.code, int) else 0
    except Interrupted as stop:
        print("onnxcake: interrupted; run the same command again to go on", file=sys.stderr)
        return stop.exit_code
    except OnnxcakeError as error:
        print(f"onnxcake: {error}", file=sys.stderr)
        if "--json" in sys.argv:
            _print_json(error.as_dict())
        return error.exit_code
    except BrokenPipeError:  # the reader of stdout has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a bug, told in full
        if (condition := _passing(error)) is not None:
            print(f"onnxcake: {condition}; run the same command again to go on", file=sys.stderr)
            return 75
        import traceback

        traceback.print_exc()
        print("onnxcake: this is a bug; please report it with the lines above", file=sys.stderr)
        return 1
    return 0


def _passing(error: Exception) -> str | None:
    """What a passing condition is called: memory that ran out (each library has its own error), a GPU lost."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAll" in str(error):
        return "out of memory; lower -o synthesis.chunk or free some"
    if "CUDA error" in str(error):  # the process cannot be trusted afterwards
        return "the GPU failed"
    return None


def _tell(report: Any, as_json: bool) -> None:
    if as_json:
        _print_json(report.data)
    else:
        report.show()


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))  # in ASCII: a teacher's names may hold what a terminal obeys


def _start_airlock() -> None:
    """Lets the process that looks at the teacher load its libraries while this one does too."""
    from .child import shared

    shared("onnxcake.teacher.airlock").start()


def _options_of(
    input_: str | None,
    output: str | None,
    shape: str | None,
    task: str | None,
    range_: str | None,
    mean: str | None,
    std: str | None,
    hold: list[str] | None,
) -> Any:
    """What the user says of the teacher's file."""
    limits = None if range_ is None else _numbers("--range", range_)
    if limits is not None and len(limits) != 2:
        raise UsageError(f"--range {range_!r} is not two numbers", remedy="Write --range 0,1.")
    sizes = None if shape is None else _numbers("--shape", shape, "1,3,224,224")
    if sizes is not None and not all(size.is_integer() for size in sizes):
        raise UsageError(f"--shape {shape!r} is not a list of whole numbers", remedy="Write --shape 1,3,224,224.")
    held: dict[str, float] = {}
    for pair in hold or ():
        name, equals, value = pair.rpartition("=")
        if not (name and equals):
            raise UsageError(f"--hold {pair!r} is not NAME=VALUE", remedy="Write --hold mask=1.")
        held[name] = _numbers(f"--hold {name}=", value)[0]

    from .teacher import Options

    return Options(
        input=input_,
        output=output,
        shape=None if sizes is None else tuple(int(size) for size in sizes),
        constants=held,
        task=task,  # type: ignore[arg-type] # checked where all options are
        range=None if limits is None else (limits[0], limits[1]),
        mean=None if mean is None else _numbers("--mean", mean),
        std=None if std is None else _numbers("--std", std),
    )


def _numbers(option: str, text: str, example: str = "0.5,0.5,0.5") -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is not a list of numbers",
            remedy=f"Write {option} {example}.",
        ) from error


if __name__ == "__main__":
    main()
