"""What a set of 1, 4 and 16 times the batches costs: teacher passes, seconds and peak memory of the run's process.

    python benchmarks/cost.py [--batches 8] [--recipe layercake]

Each size is a run of its own in a fresh process, of the digits teacher of examples/, five steps on a batch. Passes must
grow exactly in proportion to the batches made, held-out ones included; memory must not, but for the shards of a set
that is kept: they are mapped, and count as long as nobody else needs the memory. Rows are appended to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import results

TEACHER = Path(__file__).resolve().parent.parent / "examples" / "digits.onnx"
TITLE = "Cost over the number of batches (digits, 5 steps on each)"
_RUN = """
import json, resource, sys
import onnxcake
teacher, out, recipe, batches = sys.argv[1:]
amount, learnt = ("rounds", "student.steps=2") if recipe == "layercake" else ("batches", "student.epochs=1")
overrides = [f"synthesis.{amount}={batches}", "synthesis.steps=5", "synthesis.held_out=1", learnt]
report = onnxcake.extract(teacher, recipe=recipe, out=out, overrides=overrides, range=(0, 1)).as_dict()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batch = report["recipe"]["synthesis"]["batch"]
print(json.dumps({"peak": peak, "spent": report["spent"], "batch": batch}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--recipe", default="cake-image", choices=["cake-image", "layercake"])
    said = parser.parse_args()
    for times in (1, 4, 16):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", _RUN, str(TEACHER), str(Path(folder) / "run"), said.recipe]
            command.append(str(said.batches * times))
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        made = said.batches * times + 1
        row = {
            "recipe": said.recipe,
            "batches": f"{said.batches * times} + 1 held out",
            "teacher passes": f"{told['spent']['teacher_passes']:,}",
            "passes / (batches × samples × steps)": told["spent"]["teacher_passes"] / (made * told["batch"] * 5),
            "seconds": {stage: round(s, 1) for stage, s in told["spent"]["seconds"].items()},
            "peak memory, MiB": round(told["peak"] / 1024),
        }
        results.append(TITLE, row)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
