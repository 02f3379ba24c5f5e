"""What is shipped: the wheel's recipes, and the lists that must say the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from onnxcake.recipe.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=;\[ ]", line)[0].lower() for line in requirements if line and not line.startswith("#")}


def test_the_cpu_image_installs_what_the_package_needs() -> None:
    needed = _names(PROJECT["dependencies"]) - {"onnxruntime-gpu", "onnx2torch"}  # see the Dockerfile
    assert _names((ROOT / "docker" / "requirements-cpu.txt").read_text().splitlines()) == needed


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    pinned = _names((ROOT / "constraints.txt").read_text().splitlines())
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    assert _names([*PROJECT["dependencies"], *extras]) - {"onnxcake"} <= pinned


def test_the_two_runtimes_are_never_installed_together() -> None:
    from packaging.markers import Marker

    markers = [Marker(line.split(";")[1]) for line in PROJECT["dependencies"] if line.startswith("onnxruntime")]
    assert len(markers) == 2
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")):
        environment = {"sys_platform": system, "platform_machine": machine}
        assert sum(marker.evaluate(environment) for marker in markers) == 1


@pytest.mark.slow
def test_the_wheel_works_in_a_folder_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        recipes = {Path(name).stem for name in archive.namelist() if name.startswith("onnxcake/_recipes/")}
        archive.extractall(tmp_path / "site")
    assert recipes == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import onnxcake.recipe.recipe as r; "
        "import onnxcake.cli; print(r.__file__); print(*(r.Recipe.load(name).title for name in r.names()), sep='\\n')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith(str(tmp_path / "site")), result.stderr
    assert sorted(result.stdout.splitlines()[1:]) == sorted(Recipe.load(name).title for name in recipes)
