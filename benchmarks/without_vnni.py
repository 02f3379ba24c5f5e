"""Run a command with an onnxruntime that sees a processor of AVX2 alone, on one that has more: real saturation.

    python benchmarks/without_vnni.py python -m pytest -p no:faulthandler tests/graph tests/student

It makes a copy of the installed onnxruntime in benchmarks/.cache, in which each CPUID instruction is one that traps;
a small library answers the trap with AVX-512, VNNI and AMX taken out. onnxruntime then chooses the kernels that it has
for such a processor, among them those whose products of unsigned with signed bytes saturate at 16 bits. Where the
user may mount (root, or user namespaces), /proc/cpuinfo tells the same story. Linux on x86-64 with gcc and objdump.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent / ".cache" / "without-vnni"
_CPUID, _TRAP = b"\x0f\xa2", b"\x0f\x0b"
_HIDDEN = re.compile(r" (avx512\w*|avx_vnni\w*|amx_\w+)")
_LIBRARY = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>
static void answer(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned char *at = (unsigned char *)r[REG_RIP];
  if (at[0] != 0x0f || at[1] != 0x0b) { signal(SIGILL, SIG_DFL); return; }
  unsigned leaf = r[REG_RAX], part = r[REG_RCX], a, b, c, d;
  __cpuid_count(leaf, part, a, b, c, d);
  if (leaf == 7 && part == 0) {
    b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX-512 */
    c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);                 /* AVX-512's VNNI among them */
    d &= ~(1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);                /* AMX */
  }
  if (leaf == 7 && part == 1) { a &= ~(1u << 4 | 1u << 5 | 1u << 21); d = 0; }  /* AVX-VNNI */
  r[REG_RAX] = a; r[REG_RBX] = b; r[REG_RCX] = c; r[REG_RDX] = d; r[REG_RIP] += 2;
}
__attribute__((constructor)) static void begin(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer; action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, 0);
}
"""


def prepare() -> None:
    """Make the copy, the library and the processor's description, if they are not there."""
    done = CACHE / "done"
    if done.exists():
        return
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    (CACHE / "cpuinfo").write_text(_HIDDEN.sub("", Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    (CACHE / "mask.c").write_text(_LIBRARY)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", CACHE / "mask.so", CACHE / "mask.c"], check=True)
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    copy = CACHE / "site" / "onnxruntime"
    shutil.copytree(Path(found.origin).parent, copy, ignore=shutil.ignore_patterns("*cuda*.so*", "*tensorrt*.so*"))
    (library,) = (copy / "capi").glob("onnxruntime_pybind11_state*.so")
    print(f"{_trapped(library)} CPUID instructions trap", file=sys.stderr)
    done.touch()


def _trapped(library: Path) -> int:
    """Put a trap in place of each CPUID instruction; returns how many there were."""
    sections = subprocess.run(["objdump", "-h", library], capture_output=True, text=True, check=True).stdout
    text = next(line.split() for line in sections.splitlines() if line.split()[1:2] == [".text"])
    shift = int(text[5], 16) - int(text[3], 16)
    command = ["objdump", "-d", "--no-show-raw-insn", library]
    content, count = bytearray(library.read_bytes()), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as disassembly:
        assert disassembly.stdout is not None
        for line in disassembly.stdout:
            if line.rstrip().endswith("\tcpuid"):
                at = int(line.split(":")[0], 16) + shift
                assert content[at : at + 2] == _CPUID
                content[at : at + 2] = _TRAP
                count += 1
    library.write_bytes(content)
    return count


def main() -> int:
    """Run the command that the arguments are."""
    prepare()
    path = os.pathsep.join(filter(None, [str(CACHE / "site"), os.environ.get("PYTHONPATH", "")]))
    told = {"PYTHONPATH": path, "LD_PRELOAD": str(CACHE / "mask.so"), "OMP_NUM_THREADS": "1"}
    story = 'mount --bind "$0" /proc/cpuinfo && exec env "$@"'
    inside = ["bash", "-c", story, CACHE / "cpuinfo", *(f"{name}={value}" for name, value in told.items())]
    for unshare in (["unshare", "-m"], ["unshare", "-r", "-m"]):
        probe = [*unshare, "bash", "-c", 'mount --bind "$0" /proc/cpuinfo', CACHE / "cpuinfo"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return subprocess.run([*unshare, *inside, *sys.argv[1:]], check=False).returncode
    print("/proc/cpuinfo still tells of all features: this user may not mount", file=sys.stderr)
    return subprocess.run(sys.argv[1:], env={**os.environ, **told}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
