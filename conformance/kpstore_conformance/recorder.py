"""Records what a process writes to its SQLite files, in which order, and what of it the disk has to keep.

    python -m kpstore_conformance.recorder RECORDING FOLDER MODULE [ARGUMENT …]

runs a module as `python -m` does, with a VFS in front of SQLite's own that notes every write, truncation,
sync, creation and deletion of a database, a journal or a log below FOLDER, once it is done. What a power cut
at any moment would leave is made from that by `kpstore_conformance.disks`, as often as wanted, without
cutting any.

A recording is a file to which records are added, each by one write(2), so that it is whole whenever the
process is killed: a line of JSON, followed by the bytes that it announces. Records are objects; a line that
is an array is an acknowledgement, which the process itself adds.

Not seen, and so never on a disk made from the recording: the -shm file, which SQLite makes anew from the log
and never syncs; SQLite's temporary files; whatever is written past SQLite, but for folders that Python makes
and syncs; and other processes.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import stat
import sys
import threading
import traceback
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_longlong, c_void_p
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["command", "is_available", "record"]

_OK = 0
# The kinds of files, by the flags that SQLite opens them with, whose loss would be a loss.
_MAIN_DB, _MAIN_JOURNAL, _WAL = 0x00000100, 0x00000800, 0x00080000

_Close = CFUNCTYPE(c_int, c_void_p)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_longlong)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_longlong)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)
# The name is passed on as the pointer it is: behind its end, SQLite finds the parameters of a URI.
_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_OpenDirectory = CFUNCTYPE(c_int, c_char_p, c_void_p)
_SetSystemCall = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p)
_GetSystemCall = CFUNCTYPE(c_void_p, c_void_p, c_char_p)


class _Methods(Structure):
    """`sqlite3_io_methods`, version 3. Methods that are not ours stay the pointers that they are."""

    _fields_ = [
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("others", c_void_p * 13),
    ]


class _Vfs(Structure):
    """`sqlite3_vfs`, version 3."""

    _fields_ = [
        ("version", c_int),
        ("file_bytes", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("app_data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        ("others", c_void_p * 11),
        ("set_system_call", c_void_p),
        ("get_system_call", c_void_p),
        ("next_system_call", c_void_p),
    ]


F = TypeVar("F", bound=Callable[..., Any])


def _or_end(function: F) -> F:
    """End the process if the function raises: ctypes would go on, and the recording would not be true."""

    @wraps(function)
    def guarded(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(70)

    return guarded  # type: ignore[return-value]


def _sqlite() -> ctypes.CDLL:
    """The very SQLite that Python's `sqlite3` calls; AttributeError when it is used, if it is hidden."""
    import _sqlite3

    # A symbol is looked for in the extension module, where SQLite may be linked in, then in its libraries.
    # Where the module is built into the interpreter, that is where SQLite is.
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    library.sqlite3_vfs_find.restype = POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = [c_char_p]
    library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
    return library


def is_available() -> bool:
    """Whether this interpreter's SQLite can be reached, and is one whose VFS is known here: a POSIX one."""
    try:
        vfs = _sqlite().sqlite3_vfs_find(None)
    except (ImportError, OSError, AttributeError):
        return False
    return bool(vfs) and vfs.contents.version == 3 and vfs.contents.name == b"unix"


def command(recording: Path, folder: Path) -> list[str]:
    """What to put between `python` and `-m MODULE …`, in place of the `-m`."""
    return ["-m", "kpstore_conformance.recorder", str(recording), str(folder)]


class _Recorder:
    """Notes what happens below one folder."""

    def __init__(self, recording: Path, folder: Path) -> None:
        self._to = os.open(recording, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._folder = Path(os.path.realpath(folder))
        self._lock = threading.Lock()
        self._numbers: dict[tuple[int, int], int] = {}  # of files, by device and inode
        self._last_number = 0
        self._open: dict[int, tuple[int, _Methods]] = {}  # number and methods, by the handle's address
        self._methods: dict[int, _Methods] = {}  # ours, by the address of SQLite's
        self._syncs = 0
        self._synced_folders = threading.local()
        self._kept: list[Any] = []  # what SQLite holds pointers to

    def note(self, payload: bytes = b"", **record: Any) -> None:
        os.write(self._to, json.dumps(record).encode() + b"\n" + payload)

    def found(self) -> None:
        """Note what is there already; it is taken for synced."""
        for path in sorted(self._folder.rglob("*")):
            if path.is_dir():
                self.note(op="folder", name=self._name(path), durable=True)
            elif not path.name.endswith("-shm"):
                self._file(path, durable=True)

    def _name(self, path: str | Path) -> str:
        return str(Path(path).relative_to(self._folder))

    def _is_ours(self, path: str | Path) -> bool:
        return Path(path).is_relative_to(self._folder)

    def _file(self, path: str | Path, durable: bool = False) -> int:
        """The number of a file, which is noted the first time that it is seen."""
        found = Path(path).stat()
        key = (found.st_dev, found.st_ino)
        with self._lock:
            if key not in self._numbers:
                self._last_number += 1
                self._numbers[key] = self._last_number
                # Nobody else has a handle on it yet: closing this one drops no lock.
                content = Path(path).read_bytes()
                self.note(
                    content,
                    op="file",
                    file=self._last_number,
                    name=self._name(path),
                    durable=durable,
                    bytes=len(content),
                )
            return self._numbers[key]

    # Folders, which Python makes and syncs ----------------------------------

    def watch_folders(self) -> None:
        made, synced = os.mkdir, os.fsync

        @wraps(made)
        def mkdir(path: Any, *arguments: Any, **named: Any) -> None:
            made(path, *arguments, **named)
            if self._is_ours(where := os.path.abspath(os.fspath(path))):  # noqa: PTH100  # as SQLite does
                self.note(op="folder", name=self._name(where), durable=False)

        @wraps(synced)
        def fsync(descriptor: Any) -> None:
            synced(descriptor)
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                for folder in (self._folder, *filter(Path.is_dir, self._folder.rglob("*"))):
                    if os.path.samestat(found, folder.stat()):
                        self.note(op="entries", name=self._name(folder))

        os.mkdir, os.fsync = mkdir, fsync  # type: ignore[assignment]

    # The VFS ----------------------------------------------------------------

    def register(self) -> None:
        library = _sqlite()
        real = library.sqlite3_vfs_find(None).contents
        vfs = _Vfs.from_buffer_copy(real)
        vfs.name = b"kpstore-recorder"
        real_open, real_delete = _Open(real.open), _Delete(real.delete)

        @_or_end
        def xopen(_: int, name: int | None, handle: int, flags: int, out_flags: int | None) -> int:
            result: int = real_open(ctypes.addressof(real), name, handle, flags, out_flags)
            if result == _OK and name is not None and flags & (_MAIN_DB | _MAIN_JOURNAL | _WAL):
                path = os.fsdecode(ctypes.string_at(name))
                if self._is_ours(path):
                    self._watch(handle, self._file(path))
            return result

        @_or_end
        def xdelete(_: int, name: bytes, sync_folder: int) -> int:
            path = os.fsdecode(name)
            try:
                found = Path(path).stat()
            except OSError:
                found = None
            result, folders = self._noting_folders(
                lambda: real_delete(ctypes.addressof(real), name, sync_folder)
            )
            if result == _OK and found is not None and self._is_ours(path):
                self._numbers.pop((found.st_dev, found.st_ino), None)  # the inode may be used again
                self.note(op="delete", name=self._name(path))
                self._note_folders(folders)
            return result

        real_open_directory = _OpenDirectory(
            _GetSystemCall(real.get_system_call)(ctypes.addressof(real), b"openDirectory")
        )

        @_or_end
        def open_directory(name: bytes, descriptor: int) -> int:
            result: int = real_open_directory(name, descriptor)
            if result == _OK:
                self._synced_folders.seen = [
                    *getattr(self._synced_folders, "seen", []),
                    os.path.dirname(os.fsdecode(name)),  # noqa: PTH120  # as SQLite takes it
                ]
            return result

        opener, deleter = _Open(xopen), _Delete(xdelete)
        vfs.open, vfs.delete = (ctypes.cast(function, c_void_p).value for function in (opener, deleter))
        hook = _OpenDirectory(open_directory)
        set_call = _SetSystemCall(real.set_system_call)
        if set_call(ctypes.addressof(real), b"openDirectory", ctypes.cast(hook, c_void_p)) != _OK:
            raise RuntimeError("this SQLite does not tell when it syncs a folder")
        self._kept += [library, real, vfs, opener, deleter, hook]
        if library.sqlite3_vfs_register(ctypes.addressof(vfs), 1) != _OK:
            raise RuntimeError("this SQLite takes no other VFS")

    def _noting_folders(self, call: Callable[[], int]) -> tuple[int, list[str]]:
        self._synced_folders.seen = []
        result = call()
        return result, self._synced_folders.seen

    def _note_folders(self, folders: list[str]) -> None:
        for folder in folders:
            if self._is_ours(folder):
                self.note(op="entries", name=self._name(folder))

    def _watch(self, handle: int, number: int) -> None:
        """Put our methods in the place of SQLite's, in a handle that it has just opened."""
        methods = ctypes.cast(handle, POINTER(c_void_p))
        address = methods[0]
        assert address is not None
        real = _Methods.from_address(address)
        if address not in self._methods:
            self._methods[address] = self._recording(real)
        self._open[handle] = (number, real)
        methods[0] = ctypes.addressof(self._methods[address])

    def _recording(self, real: _Methods) -> _Methods:
        if real.version not in (1, 2, 3):
            raise RuntimeError(f"methods of version {real.version} of SQLite's files are not known here")
        ours = _Methods.from_buffer_copy(real)
        real_close, real_write = _Close(real.close), _Write(real.write)
        real_truncate, real_sync = _Truncate(real.truncate), _Sync(real.sync)

        @_or_end
        def close(handle: int) -> int:
            del self._open[handle]
            result: int = real_close(handle)
            return result

        @_or_end
        def write(handle: int, content: int, count: int, at: int) -> int:
            result: int = real_write(handle, content, count, at)
            if result == _OK:
                number, _ = self._open[handle]
                self.note(ctypes.string_at(content, count), op="write", file=number, at=at, bytes=count)
            return result

        @_or_end
        def truncate(handle: int, size: int) -> int:
            result: int = real_truncate(handle, size)
            if result == _OK:
                self.note(op="truncate", file=self._open[handle][0], size=size)
            return result

        @_or_end
        def sync(handle: int, flags: int) -> int:
            number, _ = self._open[handle]
            with self._lock:
                self._syncs += 1
                mine = self._syncs
            self.note(op="syncing", file=number, sync=mine)
            result, folders = self._noting_folders(lambda: real_sync(handle, flags))
            if result == _OK:
                self.note(op="synced", file=number, sync=mine)
                self._note_folders(folders)
            return result

        functions = (_Close(close), _Write(write), _Truncate(truncate), _Sync(sync))
        self._kept.append(functions)
        ours.close, ours.write, ours.truncate, ours.sync = (
            ctypes.cast(function, c_void_p).value for function in functions
        )
        return ours


def record(recording: Path, folder: Path) -> None:
    """From here on, note in `recording` what this process does to SQLite's files below `folder`."""
    recorder = _Recorder(recording, folder)
    recorder.found()
    recorder.watch_folders()
    recorder.register()
    # SQLite keeps pointers into it for as long as the process lives.
    globals()["_recorder"] = recorder


def _main() -> None:
    recording, folder, module = sys.argv[1:4]
    record(Path(recording), Path(folder))
    sys.argv = [module, *sys.argv[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
