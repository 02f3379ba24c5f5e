"""Files are whole or not there, whatever fails; damage shows; one run at a time writes to a folder."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcake.core import files
from onnxcake.core.errors import OutputError, TryAgain

OLD, NEW = b"old content", b"new content " * 10_000


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- writing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", NEW])
def test_what_is_written_is_read(content: bytes, tmp_path: Path) -> None:
    for _ in range(2):
        files.write_atomic(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content and names_in(tmp_path) == ["a"]


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


IN_THE_WAY = {
    "a link": (_link_to("elsewhere"), "a link to elsewhere"),
    "a link that leads nowhere": (_link_to("gone"), "a link to gone"),
    "a link to itself": (_link_to("a"), "a link to a"),
    "a link to a device": (_link_to("/dev/null"), "a link to /dev/null"),
    "a folder": (Path.mkdir, "a folder"),
    "a disk": (lambda path: os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(250, 250)), "a disk"),
    "a socket": (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "a socket"),
}


@pytest.mark.parametrize("make, name", IN_THE_WAY.values(), ids=IN_THE_WAY.keys())
def test_what_is_no_file_is_neither_replaced_nor_followed(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_bytes(OLD)
    try:
        make(tmp_path / "a")
    except PermissionError:
        pytest.skip("no right to make one")
    before = (tmp_path / "a").lstat()
    for write in (lambda path: files.write_atomic(path, NEW), files.check_target, files.make_parent):
        with pytest.raises(OutputError, match=f"is {name}, which is not replaced") as caught:
            write(tmp_path / "a")
        assert caught.value.where == str(tmp_path / "a") and "--out" in caught.value.remedy
    assert (tmp_path / "a").lstat().st_ino == before.st_ino and names_in(tmp_path) == ["a", "elsewhere"]
    assert (tmp_path / "elsewhere").read_bytes() == OLD


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with subprocess.Popen(["cat", tmp_path / "a"], stdout=subprocess.PIPE) as reader:
        files.check_target(tmp_path / "a")
        files.make_parent(tmp_path / "a")
        files.write_atomic(tmp_path / "a", NEW)
        assert reader.communicate(timeout=30)[0] == NEW
    assert stat.S_ISFIFO((tmp_path / "a").lstat().st_mode) and names_in(tmp_path) == ["a"]
    with pytest.raises(OutputError, match="a device or a pipe"):
        files.check_target(tmp_path / "a", stream=False)


@pytest.mark.parametrize("minor, name", [(3, "null"), (7, "full")])
def test_a_device_is_written_into(minor: int, name: str, tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    except PermissionError:
        pytest.skip("no right to make a device")
    with pytest.raises(OutputError, match="No space left") if name == "full" else nullcontext():
        files.write_atomic(tmp_path / name, NEW)
    assert stat.S_ISCHR((tmp_path / name).lstat().st_mode) and names_in(tmp_path) == [name]


def test_a_link_under_the_temporarys_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(OLD)
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to("elsewhere")
    files.write_atomic(tmp_path / "a", NEW)
    assert (tmp_path / "elsewhere").read_bytes() == OLD and (tmp_path / "a").read_bytes() == NEW


def test_json_is_told_in_the_order_given(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": {"é": "層 \U0001f370", "q": '"\\\n'}}
    files.write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text(encoding="utf-8")
    assert json.loads(text) == value and list(json.loads(text)) == ["b", "a"]
    assert "層" in text and text.endswith("}\n")


def test_a_name_that_is_no_text_survives_in_json(tmp_path: Path) -> None:
    """A file's name may hold any bytes; Python keeps those as lone surrogates."""
    value = {"name": os.fsdecode(b"caf\xe9.onnx")}
    files.write_json(tmp_path / "v.json", value)
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_not_written(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "v.json", [value])
    assert names_in(tmp_path) == []


class Faults:
    """Lets the n-th call of the operating system fail, as SQLite's tests do: n = 1, 2, 3 … until none fails."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fail_at, self.code, self.calls, self.after_replace = 0, 0, 0, False
        patch.setattr(os, "fsync", self._counted(os.fsync))
        patch.setattr(os, "open", self._counted(os.open))
        patch.setattr(Path, "replace", self._counted(Path.replace, last=True))
        opening = Path.open

        def opened(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if "x" not in mode:
                return opening(path, mode, *rest, **more)
            self._maybe_fail()
            return _Faulty(opening(path, "xb", buffering=0), self)

        patch.setattr(Path, "open", opened)

    def _maybe_fail(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError(self.code, os.strerror(self.code))

    def _counted(self, call: Callable[..., Any], last: bool = False) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            self._maybe_fail()
            result = call(*args, **more)
            self.after_replace = self.after_replace or last
            return result

        return counted


class _Faulty:
    """A file of which a write may fail half-way, or a flush, or the closing."""

    def __init__(self, file: io.RawIOBase, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def write(self, content: bytes) -> int:
        half = len(content) // 2
        self._file.write(content[:half])
        self._faults._maybe_fail()
        self._file.write(content[half:])
        return len(content)

    def flush(self) -> None:
        self._faults._maybe_fail()

    def fileno(self) -> int:
        return self._file.fileno()

    def __enter__(self) -> _Faulty:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        if exc[0] is None:
            self._faults._maybe_fail()


CODES = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EFBIG]


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("existing", [True, False])
def test_whatever_call_fails_the_old_content_stays(
    existing: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    outcomes = []
    for number in range(1, 100):
        path.unlink(missing_ok=True)
        if existing:
            path.write_bytes(OLD)
        with monkeypatch.context() as patch:
            faults = Faults(patch)
            faults.fail_at, faults.code = number, code
            try:
                files.write_atomic(path, NEW)
                failed = False
            except OutputError as error:
                failed = True
                assert error.exit_code == 7 and error.where == str(path)
                assert os.strerror(code) in error.what and error.remedy.endswith(".")
        if not failed:
            assert path.read_bytes() == NEW
            break
        wanted = [NEW] if faults.after_replace else [OLD] if existing else []
        assert [p.read_bytes() for p in tmp_path.iterdir()] == wanted, f"after a failure of call {number}"
        outcomes.append(faults.after_replace)
    # open, write, flush, fsync, close, rename; then the folder's open and fsync, when the new content is there
    assert outcomes == [False] * 6 + [True] * 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interruption_leaves_no_temporary(
    kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(OLD)

    def interrupted(handle: int) -> None:
        raise kind

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(kind):
        files.write_atomic(tmp_path / "a", NEW)
    assert names_in(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == OLD


def test_a_real_limit_on_file_size(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from onnxcake.core import files
from onnxcake.core.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = Path(sys.argv[1])
files.write_atomic(path, b"x" * 1000)
try:
    files.write_atomic(path, b"y" * 1001)
except OutputError as error:
    print(error.exit_code, error)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("7 ") and "Raise the limit" in done.stdout
    assert (tmp_path / "a").read_bytes() == b"x" * 1000 and names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("place", ["gone/a", "file/a", "n" * 300])
def test_places_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(OutputError) as caught:
        files.write_atomic(tmp_path / place, NEW)
    assert caught.value.remedy and names_in(tmp_path) == ["file"]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError):
        files.write_atomic(tmp_path / "a", NEW)
    assert names_in(tmp_path) == ["a"] and not names_in(tmp_path / "a")


# --- folders -----------------------------------------------------------------------------------------------


def test_folders_are_made_and_tried(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and not names_in(tmp_path / "a" / "b")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match="cannot be written") as caught:
            files.make_folder(folder)
        assert caught.value.remedy.endswith("--out.")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="ermission"):
        files.make_folder(tmp_path)


def test_a_folder_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        files.make_folder(tmp_path)
    assert "Free some space" in caught.value.remedy and names_in(tmp_path) == []


def test_only_our_own_leftovers_are_swept(tmp_path: Path) -> None:
    for name in (".a.json.77.tmp", ".trial-77.tmp", "data.tmp", ".hidden", "a.json", ".tmp.json"):
        (tmp_path / name).write_bytes(OLD)
    files.sweep(tmp_path)
    assert names_in(tmp_path) == [".hidden", ".tmp.json", "a.json", "data.tmp"]


def test_moving_replaces_nothing(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a").write_text(str(number))
        files.move(tmp_path / "a", tmp_path / "away")
    assert {path.name: path.read_text() for path in (tmp_path / "away").iterdir()} == {"a": "0", "a.1": "1", "a.2": "2"}


def test_moving_minds_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "a").symlink_to("gone")
    (tmp_path / "a").write_bytes(OLD)
    assert files.move(tmp_path / "a", tmp_path / "away") == tmp_path / "away" / "a.1"
    assert (tmp_path / "away" / "a").is_symlink()


def test_removing_what_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    files.remove(tmp_path / "a")
    files.remove(tmp_path / "a")
    with pytest.raises(OutputError):
        files.remove(tmp_path)  # a folder


# --- digests -----------------------------------------------------------------------------------------------


def test_a_name_carries_the_digest(tmp_path: Path) -> None:
    path = files.write_with_digest(tmp_path, "000001", ".bin", NEW)
    assert path.name == f"000001-{files.sha256(NEW)[:16]}.bin" and path.read_bytes() == NEW
    assert files.digest_holds(path)
    assert files.write_with_digest(tmp_path, "000001", ".bin", NEW) == path and len(names_in(tmp_path)) == 1


def test_damage_shows_in_the_digest(tmp_path: Path) -> None:
    path = files.write_with_digest(tmp_path, "a-b", ".bin", OLD)
    for content in (b"", OLD[:-1], OLD + b"\0", bytes([OLD[0] ^ 1]) + OLD[1:]):
        path.write_bytes(content)
        assert not files.digest_holds(path)
    path.write_bytes(OLD)
    assert files.digest_holds(path)


def test_only_a_regular_file_holds_its_digest(tmp_path: Path) -> None:
    path = files.write_with_digest(tmp_path, "a", ".bin", OLD)
    good = path.rename(tmp_path / "good")
    assert not files.digest_holds(path), "gone"
    path.symlink_to(good)
    assert not files.digest_holds(path), "a link"
    path.unlink()
    path.mkdir()
    assert not files.digest_holds(path), "a folder"
    path.rmdir()
    os.mkfifo(path)
    assert not files.digest_holds(path), "a pipe"


def test_large_files_are_digested_in_blocks(tmp_path: Path) -> None:
    content = os.urandom(1000) * 3000
    (tmp_path / "a").write_bytes(content)
    assert files.sha256_file(tmp_path / "a") == files.sha256(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), json_values, max_size=4))
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert files.canonical(dict(reversed(value.items()))) == files.canonical(value)
    assert json.loads(files.canonical(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": {1, 2}}])
def test_what_has_no_canonical_bytes(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        files.canonical(value)


# --- one writer --------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from onnxcake.core.files import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to ``tmp_path``."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_second_process_is_refused(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(TryAgain) as caught, files.sole_writer(tmp_path):
        pytest.fail("two writers")
    assert caught.value.exit_code == 75 and caught.value.where == str(tmp_path) and caught.value.remedy
    assert holder.poll() is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_is_freed_however_its_holder_ends(
    how: signal.Signals, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    holder.send_signal(how)
    holder.wait()
    start = time.monotonic()
    with files.sole_writer(tmp_path):
        assert time.monotonic() - start < 5


def test_the_lock_is_freed_at_the_blocks_end(tmp_path: Path) -> None:
    for _ in range(2):
        with files.sole_writer(tmp_path):
            pass
    with pytest.raises(ZeroDivisionError), files.sole_writer(tmp_path):
        raise ZeroDivisionError
    with files.sole_writer(tmp_path):
        pass


def test_a_second_writer_in_this_process_is_refused(tmp_path: Path) -> None:
    with files.sole_writer(tmp_path):
        with pytest.raises(TryAgain), files.sole_writer(tmp_path):
            pytest.fail("two writers")
        with files.sole_writer(_made(tmp_path / "other")):
            pass


def test_errors_inside_the_block_are_not_the_locks(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, files.sole_writer(tmp_path):
        raise OSError(errno.ENOSPC, "not about the lock")
    assert not isinstance(caught.value, OutputError)


def test_a_folder_that_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(OutputError), files.sole_writer(tmp_path / "file"):
        pytest.fail("held")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
