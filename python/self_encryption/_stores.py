"""Stores of chunks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Dict, Optional, Union


class ChunkStore:
    """A store of chunks. Derive from it, and define put, get, or both.

    The store need not be trusted: chunks are verified against their names, and the decrypted data is verified against
    the data map. The thread that makes the call also calls the store, for one chunk at a time.
    """

    def put(self, name: bytes, data: bytes) -> None:
        """Stores a chunk under its name of 32 bytes, durably. The chunk may already exist. An exception ends the call."""
        raise NotImplementedError(f"{type(self).__name__} has no put")

    def get(self, name: bytes) -> Optional[bytes]:
        """Returns the chunk of that name, or None if there is none. Then the call raises NoSuchChunk."""
        raise NotImplementedError(f"{type(self).__name__} has no get")


class MemoryStore(ChunkStore):
    """Keeps chunks in a dict."""

    def __init__(self) -> None:
        self.chunks: Dict[bytes, bytes] = {}

    def put(self, name: bytes, data: bytes) -> None:
        self.chunks[name] = data

    def get(self, name: bytes) -> Optional[bytes]:
        return self.chunks.get(name)


class DiskStore(ChunkStore):
    """Keeps each chunk in a file of a directory. The name of the file is that of the chunk in hexadecimal digits.

    A file gets its name only when it is complete and durable. Several processes may use the directory at once.
    """

    def __init__(self, root_dir: Union[str, "os.PathLike[str]"]) -> None:
        self.root_dir = Path(root_dir)
        self.root_dir.mkdir(parents=True, exist_ok=True)

    def _path(self, name: bytes) -> Path:
        if not isinstance(name, bytes) or len(name) != 32:
            raise TypeError("the name of a chunk must be 32 bytes")
        return self.root_dir / name.hex()

    def put(self, name: bytes, data: bytes) -> None:
        path = self._path(name)
        if self.get(name) != data:  # also replaces a damaged chunk
            self._write(path, data)
        self._sync()

    def _write(self, path: Path, data: bytes) -> None:
        fd, temporary = tempfile.mkstemp(dir=self.root_dir, prefix=".tmp-")
        try:
            with open(fd, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def _sync(self) -> None:
        fd = os.open(self.root_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def get(self, name: bytes) -> Optional[bytes]:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None
