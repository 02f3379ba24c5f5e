"""Turn the command's arguments into one call, and how that ends into an exit code and a message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from ..core import interrupt, waiting
from ..core.errors import Interrupted, OnnxcakeError, OutputError
from ..version import __version__
from . import cuts, looks, recipes, runs, streams
from .options import print_json

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
for command in (runs.extract, cuts.shrink, looks.inspect, looks.verify, runs.train, runs.bench, looks.record):
    app.command()(command)
app.add_typer(recipes.app, name="recipes")


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
    """Run the ``onnxcake`` command, and exit with its code."""
    # OpenMP threads that wait by spinning take the cores from whoever else computes on this machine, and a
    # second such process makes both many times slower. Read when torch is loaded, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(_exit_code(app))


def _exit_code(command: Callable[[], Any]) -> int:
    """Run the command under guarded streams; a stdout that failed decides where the command itself did not fail."""
    code = 0
    try:
        with streams.guarded():
            code = _run(command)
    except OutputError as error:
        with streams.guarded():
            print(f"onnxcake: {error}", file=sys.stderr)
        return code or error.exit_code
    return code


def _run(command: Callable[[], Any]) -> int:
    """Run the command; tell what went wrong on stderr, and on stdout too if ``--json`` asks for an object."""
    try:
        with interrupt.handled(), waiting.shown(quiet="--json" in sys.argv):
            command()
    except SystemExit as end:  # typer's own: help, version, and usage with its message on stderr
        return end.code if isinstance(end.code, int) else 0
    except Interrupted as stop:
        print("onnxcake: interrupted; run the same command again to go on", file=sys.stderr)
        return stop.exit_code
    except OnnxcakeError as error:
        return _tell_error(error)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug, told in full
        if (condition := _passing_condition(error)) is not None:
            print(f"onnxcake: {condition}; run the same command again to go on", file=sys.stderr)
            return 75
        if isinstance(error, OSError) and error.errno is not None:  # the system refused what nobody expected it to
            remedy = "Mend the cause and run the same command again; finished work is kept."
            return _tell_error(
                OutputError(f"the system refused ({error.strerror})", where=error.filename or "", remedy=remedy)
            )
        import traceback

        traceback.print_exc()
        print("onnxcake: this is a bug; please report it with the lines above", file=sys.stderr)
        return 1
    return 0


def _tell_error(error: OnnxcakeError) -> int:
    print(f"onnxcake: {error}", file=sys.stderr)
    if "--json" in sys.argv:
        print_json(error.as_dict())
    return error.exit_code


def _passing_condition(error: Exception) -> str | None:
    """Name a condition that passes: memory that ran out (each library has its own error), a GPU lost; else None."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAll" in str(error):
        return "out of memory; lower -o synthesis.chunk or free some"
    if "CUDA error" in str(error):  # the process cannot be trusted afterwards
        return "the GPU failed"
    return None
