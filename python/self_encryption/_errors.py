"""The errors, named as those of the reference's crate."""

from __future__ import annotations

from typing import Type


class Error(ValueError):
    """What all errors of this package are, but those of files (OSError) and of the caller's own functions."""


class NoSuchChunk(Error):
    """The store, or the list, does not have a chunk that the data map names."""


class ChunkTooSmall(Error):
    """Data of less than MIN_ENCRYPTABLE_BYTES, or a stored chunk that is shorter than any."""


class ChunkTooLarge(Error):
    """A stored chunk that is longer than its plaintext allows, or data too large for a call."""


class InvalidChunkSize(Error):
    """A chunk_size that the encodings do not have."""


class Serialisation(Error):
    """Bytes, or JSON, that are no data map."""


class Compression(Error):
    """The contents of a chunk do not decompress."""


class Decryption(Error):
    """A chunk is not the one that was stored: it was damaged or exchanged, or the data map is of another encoding."""


class Generic(Error):
    """Anything else."""


Io = OSError
"""The crate's Io: a file could not be read or written. FileNotFoundError and its like are what they always are."""

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
    """The exception for what a function of the library returned."""
    if code < _OS:
        return OSError(_OS - code, text)  # which makes it FileNotFoundError and its like
    return _CODES.get(code, Generic)(text)
