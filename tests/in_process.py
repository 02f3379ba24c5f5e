"""The command inside the test's process: most of a short run is the loading of torch.

Test files have no package around them: their names must be unique in all of tests/.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from onnxcake.cli import main


class Ended(NamedTuple):
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.out)


def command(*arguments: object, cwd: Path | None = None) -> Ended:
    """Runs ``onnxcake`` with these arguments, in that folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["onnxcake", *map(str, arguments)])
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as end:
            main()
    torch.set_num_threads(1)  # a run takes as many as there are cores
    return Ended(int(end.value.code or 0), out.getvalue(), err.getvalue())
