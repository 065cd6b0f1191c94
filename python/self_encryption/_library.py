"""Loads the shared library libselfenc, calls its functions, and provides its callbacks."""

from __future__ import annotations

import _thread
import ctypes
import os
import queue
import threading
from typing import Any, Callable, Optional

from ._errors import ChunkTooSmall, from_code

PUT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
GET = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t)

_HOW = (ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p)  # encoding, chunk size, form of maps
_BYTES = (ctypes.c_char_p, ctypes.c_size_t)
_OUT = (ctypes.c_void_p, ctypes.c_void_p)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "selfenc_encrypt": (*_HOW, *_BYTES, *_OUT, *_OUT),
    "selfenc_decrypt": (ctypes.c_int, *_BYTES, *_BYTES, *_OUT),
    "selfenc_decrypt_store": (ctypes.c_int, *_BYTES, GET, ctypes.c_void_p, *_OUT),
    "selfenc_encrypt_file": (*_HOW, ctypes.c_char_p, PUT, ctypes.c_void_p, *_OUT),
    "selfenc_decrypt_file": (ctypes.c_int, *_BYTES, ctypes.c_char_p, GET, ctypes.c_void_p),
    "selfenc_shrink": (ctypes.c_int, ctypes.c_char_p, *_BYTES, PUT, ctypes.c_void_p, *_OUT),
    "selfenc_root_map": (ctypes.c_int, *_BYTES, GET, ctypes.c_void_p, *_OUT),
    "selfenc_map_convert": (*_BYTES, ctypes.c_char_p, *_OUT),
    "selfenc_name": (ctypes.c_int, *_BYTES, ctypes.c_void_p),
}


class _Library:
    """The library of this process. It is loaded at the first call, because it does not survive a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun = False  # the library's threads may run
        self.lost = False  # they ran in the parent process before the fork
        self.dll: Optional[ctypes.CDLL] = None

    def load(self) -> ctypes.CDLL:
        with self.lock:
            if self.lost:
                raise RuntimeError(
                    "self_encryption was used before this process was forked, and its threads do not survive a fork: "
                    'start processes with "spawn" or "forkserver", or use self_encryption only after the fork'
                )
            if self.dll is None:
                self.begun = True
                self.dll = _open()
            return self.dll

    def free(self, p: ctypes.c_void_p) -> None:
        """Frees what the library allocated in this process."""
        if self.dll is not None and not self.lost:
            self.dll.selfenc_free(p)

    def forked(self) -> None:
        self.lock = threading.Lock()  # another thread may have held it
        self.lost = self.begun


def _open() -> ctypes.CDLL:
    path = os.environ.get("LIBSELFENC") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "libselfenc.so")
    try:
        dll = ctypes.CDLL(path)
    except OSError as e:
        raise ImportError(
            f"{e}: cannot load the shared library: install the package with pip, or run `make libselfenc` in its repository"
        ) from e
    for name, arguments in _ARGUMENTS.items():
        function = getattr(dll, name)
        function.argtypes = (*arguments, ctypes.c_void_p)
        function.restype = ctypes.c_int
    dll.selfenc_free.argtypes = (ctypes.c_void_p,)
    dll.selfenc_free.restype = None
    return dll


_library = _Library()
os.register_at_fork(after_in_child=_library.forked)


class Out:
    """One result that the library allocated."""

    def __init__(self) -> None:
        self.p, self.n = ctypes.c_void_p(), ctypes.c_size_t()

    def refs(self) -> tuple[Any, Any]:
        return ctypes.byref(self.p), ctypes.byref(self.n)

    def take(self) -> bytes:
        b = ctypes.string_at(self.p, self.n.value)
        self._free()
        return b

    def _free(self) -> None:
        p, self.p = self.p, ctypes.c_void_p()
        if p.value is not None:
            _library.free(p)

    __del__ = _free  # frees a result that was not taken: a signal may end a call that has succeeded


def call(name: str, *arguments: Any) -> None:
    """Calls a function of the library, and raises an exception if it fails."""
    dll, text = _library.load(), ctypes.c_void_p()
    code = getattr(dll, name)(*arguments, ctypes.byref(text))
    if code == 0:
        return
    message = ctypes.string_at(text).decode("utf-8", "replace") if text.value is not None else ""
    dll.selfenc_free(text)
    raise from_code(code, message)


class _Ask:
    """Work for the thread that makes the call."""

    def __init__(self, work: Callable[[], Optional[bytes]]) -> None:
        self.work = work
        self.result: Optional[bytes] = None
        self.done = False
        self.reply: queue.SimpleQueue[None] = queue.SimpleQueue()


class Callbacks:
    """One call of the library with a store of the caller.

    The library runs in a separate thread. Its callbacks run in the thread that makes the call, one at a time. The reason
    is that a store may belong to this thread, and that exceptions of signals (KeyboardInterrupt) are raised in it. Both
    signals and exceptions of the store end the call. A signal may arrive between any two lines. Therefore each message
    to the other thread is a single C call, and is repeated.
    """

    def __init__(self) -> None:
        self._error: Optional[BaseException] = None  # the first error; no callbacks run after it
        self._ask: Optional[_Ask] = None  # the last request
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # after each request, and at the end
        self._begin = _thread.allocate_lock()  # taken by the library's thread, or by the caller to prevent its start
        self._ended = False

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the library. Raises the exception of the store, or else the error of the library."""
        begun = False
        while not self._ended:
            try:
                if not begun:
                    _thread.start_new_thread(self._run, (name, arguments))
                    begun = True
                self._wake.get()
                self._answer()
            except BaseException as e:
                self._fail(e)
                if not begun and self._begin.acquire(blocking=False):
                    break
                begun = True
                self._answer()
        if self._error is not None:
            error, self._error = self._error, None  # break the cycle: its traceback refers to this object
            raise error

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error

    def _run(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self._begin.acquire(blocking=False):
            return
        try:
            call(name, *arguments)
        except BaseException as e:
            self._fail(e)
        self._ended = True
        self._wake.put(None)

    def _answer(self) -> None:
        ask = self._ask
        if ask is None:
            return
        if not ask.done:
            try:
                if self._error is None:
                    ask.result = ask.work()
            except BaseException as e:
                self._fail(e)
            ask.done = True
        ask.reply.put(None)

    def _do(self, work: Callable[[], Optional[bytes]]) -> Optional[bytes]:
        """Runs work in the thread that makes the call. If self._error is set, it failed or did not run."""
        self._ask = ask = _Ask(work)
        self._wake.put(None)
        ask.reply.get()
        return ask.result

    # If a callback raises an exception, ctypes returns 0, which means failure.

    def put(self, put: Callable[[bytes, bytes], object]) -> Any:
        """Returns a callback for a function that stores a chunk under its name."""

        def callback(_: int, name: int, data: int, size: int) -> int:
            key, chunk = ctypes.string_at(name, 32), ctypes.string_at(data, size)

            def work() -> None:
                put(key, chunk)

            self._do(work)
            return 0 if self._error is not None else 1

        return PUT(callback)

    def get(self, get: Callable[[int, bytes], Optional[bytes]]) -> Any:
        """Returns a callback for a function that returns the chunk of an index and a name, or None."""

        def callback(_: int, name: int, index: int, data: int, limit: int) -> int:
            key = ctypes.string_at(name, 32)

            def work() -> Optional[bytes]:
                chunk = get(index, key)
                if chunk is not None and not chunk:
                    raise ChunkTooSmall(f"chunk {key.hex()}: chunk too small: 0 bytes")
                return chunk

            chunk = self._do(work)
            if self._error is not None:
                return 0
            if chunk is None:
                return -1
            if len(chunk) > limit:
                return -3
            ctypes.memmove(data, chunk, len(chunk))
            return len(chunk)

        return GET(callback)
