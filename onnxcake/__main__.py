"""Run the command, as ``python -m onnxcake`` or as ``onnxcake``."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn


def run() -> NoReturn:
    """Run the command, and leave without unloading its libraries: beside other work that takes seconds."""
    codes: list[int] = []

    def leave() -> None:
        if codes:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):  # what fails there was told before
                    stream.flush()
            os._exit(codes[0])

    if not atexit._ncallbacks():  # else a tool that started this interpreter waits for its end
        atexit.register(leave)  # first, so called last: what libraries register when they are imported runs before
    from .cli import main

    try:
        main()
    except SystemExit as end:
        codes.append(int(end.code or 0))
        raise


if __name__ == "__main__":
    run()
