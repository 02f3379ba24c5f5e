"""Measure whether a budget is kept: seconds of the whole command, from its start to the report, against ``--budget``.

    benchmarks/budgets.py teacher.onnx [teacher.onnx …] [--budget 2m] [--recipes layercake,cake-image,dafl,zskt,dfq]

Each command runs alone; a pair that has a row is not run again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results

from onnxcake.recipe.limits import Budget
from onnxcake.runtime.processor import describe

TITLE = "Budgets and the seconds that commands took"
RECIPES = "layercake,cake-image,dafl,zskt,dfq"


def measure(teacher: Path, recipe: str, budget: str) -> None:
    """Extract a student within a budget, and keep how long the command took."""
    if results.seen(TITLE, teacher=teacher.name, recipe=recipe, budget=budget):
        return
    seconds = Budget.of(budget).seconds
    assert seconds is not None
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "onnxcake", "extract", str(teacher), "--recipe", recipe, "--budget", budget]
        started = time.monotonic()
        done = subprocess.run([*command, "--out", f"{folder}/run"], capture_output=True, text=True)
        taken = time.monotonic() - started
    outcome = "done" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    shares = {"seconds": round(taken, 1), "of the budget": round(taken / seconds, 2), "outcome": outcome}
    pair = {"teacher": teacher.name, "recipe": recipe, "budget": budget}
    results.append(TITLE, {**pair, **shares, "processor": describe()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", nargs="+", type=Path)
    parser.add_argument("--budget", default="2m")
    parser.add_argument("--recipes", default=RECIPES)
    asked = parser.parse_args()
    for recipe in asked.recipes.split(","):
        for teacher in asked.teachers:
            measure(teacher, recipe, asked.budget)
