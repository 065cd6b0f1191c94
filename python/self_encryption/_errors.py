"""The exceptions. They have the names of the errors of the reference implementation's crate."""

from __future__ import annotations

from typing import Type


class Error(ValueError):
    """The base class of the exceptions of this package. Errors of files are OSError instead."""


class NoSuchChunk(Error):
    """The store or the list of chunks does not have a chunk of the data map."""


class ChunkTooSmall(Error):
    """The data is shorter than MIN_ENCRYPTABLE_BYTES, or a stored chunk is shorter than the minimum."""


class ChunkTooLarge(Error):
    """A stored chunk is longer than its plaintext allows, or the data is too large for one call."""


class InvalidChunkSize(Error):
    """The encoding does not support this chunk_size."""


class Serialisation(Error):
    """The bytes or the JSON are not a data map."""


class Compression(Error):
    """The contents of a chunk cannot be decompressed."""


class Decryption(Error):
    """A chunk was damaged or replaced, or the data map has another encoding."""


class Generic(Error):
    """Any other error."""


Io = OSError
"""Io of the crate: a file cannot be read or written. Subclasses such as FileNotFoundError are raised as usual."""

# The numbers of enum selfenc_error, cmd/libselfenc/selfenc.h.
_CODES: dict[int, Type[Error]] = {
    -2: NoSuchChunk,
    -3: ChunkTooSmall,
    -4: ChunkTooLarge,
    -5: InvalidChunkSize,
    -6: Serialisation,
    -7: Compression,
    -8: Decryption,
    -9: ChunkTooSmall,
    -10: ChunkTooLarge,
}
_OS = -1000


def from_code(code: int, text: str) -> Exception:
    """Returns the exception for an error code of the library."""
    if code < _OS:
        return OSError(_OS - code, text)  # Python makes it FileNotFoundError or another subclass
    return _CODES.get(code, Generic)(text)
