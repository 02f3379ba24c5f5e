"""The processor is asked, and an int8 student's weights have the bits that its products can take."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxcake.recipe.recipe import Recipe
from onnxcake.run.plan import weight_bits
from onnxcake.runtime import processor

X86 = "processor : 0\nmodel name : {name}\nflags\t\t: fpu sse2 {flags}\n\nprocessor : 1\nflags : fpu\n"
MACHINES = {
    "an AMD EPYC of 2019": (X86.format(name="AMD EPYC 7B12", flags="avx2 fma"), "x86_64", True),
    "an Intel Xeon of 2017": (X86.format(name="Xeon", flags="avx2 avx512f avx512bw"), "x86_64", True),
    "an Intel Xeon of 2019": (X86.format(name="Xeon", flags="avx2 avx512f avx512_vnni"), "x86_64", False),
    "an Intel N100": (X86.format(name="N100", flags="avx2 avx_vnni"), "x86_64", False),
    "a Raspberry Pi 4": ("processor : 0\nFeatures : fp asimd\n", "aarch64", False),
    "a Raspberry Pi 5": ("processor : 0\nFeatures : fp asimd asimddp\n", "aarch64", False),
    "an Apple laptop": (None, "arm64", False),
    "an Intel Mac": (None, "x86_64", True),
    "Windows": (None, "AMD64", True),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_what_saturates(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, kind, saturates = MACHINES[machine]
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(processor, "_TOLD", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor.platform, "machine", lambda: kind)
    assert processor.saturates() == saturates
    said = processor.describe()
    assert "\n" not in said and said
    assert ("Xeon" in said) == ("Xeon" in machine) and ("vnni" in said) == ("vnni" in (told or ""))
    assert weight_bits(Recipe.load("dfq", ["student.quantise=int8"])) == (7 if saturates else 8)


@pytest.mark.parametrize("saturates", [True, False])
@pytest.mark.parametrize(("said", "bits"), [("int8-7bit", 7), ("int8-8bit", 8), (None, None)])
def test_a_recipe_may_say_it(
    said: str | None, bits: int | None, saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a file that another processor than this one shall run."""
    monkeypatch.setattr(processor, "saturates", lambda: saturates)
    assert weight_bits(Recipe.load("dfq", [f"student.quantise={said}"] if said else [])) == bits
