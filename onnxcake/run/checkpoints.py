"""Keep the state of a run between its steps, so that it can go on after a stop."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.files import make_folder, remove, sweep, write_with_digest
from ..core.tensorfile import SUFFIX, pack, unpack

_NAME = re.compile(r"^step-(\d{9})-[0-9a-f]{16}\.safetensors$")
_KEEP = 2  # the newest, and one more should that be damaged


class Checkpoints:
    """Checkpoints in a folder: tensors and facts, named by a number that grows.

    Args:
        key: a digest over all that the state depends on; checkpoints of another are removed.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        make_folder(folder)
        sweep(folder)

    def save(self, number: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Keep a state, and remove those that are not needed any more.

        Raises:
            OutputError: if it cannot be written.
        """
        content = pack(
            {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
            {**facts, "run_key": self.key},
        )
        write_with_digest(self.folder, f"step-{number:09d}", SUFFIX, content)
        for old in self._newest_first()[_KEEP:]:
            remove(old)

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read the newest whole state; remove damaged ones and those of another run on the way."""
        for path in self._newest_first():
            found = unpack(path)
            if found is not None and found[1].get("run_key") == self.key:
                return found
            remove(path)
        return None

    def clear(self) -> None:
        """Remove all of them: what they lead on from is lost."""
        for path in self._newest_first():
            remove(path)

    def _newest_first(self) -> list[Path]:
        return sorted((path for path in self.folder.iterdir() if _NAME.match(path.name)), reverse=True)
