"""Self-encryption: splits data into encrypted chunks, which need not be kept secret, and a data map that decrypts them.

    >>> from self_encryption import decrypt, encrypt
    >>> data_map, chunks = encrypt(b"a few bytes, at least three")
    >>> decrypt(data_map, chunks)
    b'a few bytes, at least three'

The package provides the functions of the reference implementation's Python package and of its documentation page. It
reads and writes both encodings of the reference implementation: encoding=31, the default, is that of releases 0.30 to
0.34, and encoding=36 is that of 0.35 and 0.36. Exceptions have the names of the reference implementation's errors. They
are subclasses of Error, which is a ValueError, except for errors of files and of the caller's own functions.

Keep the data map as secret as the data. Both encodings are convergent: anybody who can guess a file can tell that it
is stored.
"""

from ._calls import (
    decrypt,
    decrypt_from_storage,
    encrypt,
    encrypt_from_file,
    get_root_data_map,
    shrink_data_map,
    streaming_decrypt_from_storage,
    streaming_encrypt_from_file,
)
from ._errors import (
    ChunkTooLarge,
    ChunkTooSmall,
    Compression,
    Decryption,
    Error,
    Generic,
    InvalidChunkSize,
    Io,
    NoSuchChunk,
    Serialisation,
)
from ._stores import ChunkStore, DiskStore, MemoryStore
from ._types import (
    COMPRESSION_QUALITY,
    MAX_CHUNK_SIZE,
    MIN_CHUNK_SIZE,
    MIN_ENCRYPTABLE_BYTES,
    ChunkInfo,
    DataMap,
    EncryptedChunk,
    Encoding,
    XorName,
    default_encoding,
    max_chunk_size,
    set_default_encoding,
    verify_chunk,
)

__version__ = "0.1.0"

# The names of these classes in the reference implementation's package.
PyChunkInfo, PyDataMap, PyEncryptedChunk, PyXorName = ChunkInfo, DataMap, EncryptedChunk, XorName

__all__ = [
    "COMPRESSION_QUALITY",
    "MAX_CHUNK_SIZE",
    "MIN_CHUNK_SIZE",
    "MIN_ENCRYPTABLE_BYTES",
    "ChunkInfo",
    "ChunkStore",
    "ChunkTooLarge",
    "ChunkTooSmall",
    "Compression",
    "DataMap",
    "Decryption",
    "DiskStore",
    "EncryptedChunk",
    "Encoding",
    "Error",
    "Generic",
    "InvalidChunkSize",
    "Io",
    "MemoryStore",
    "NoSuchChunk",
    "Serialisation",
    "XorName",
    "decrypt",
    "decrypt_from_storage",
    "default_encoding",
    "encrypt",
    "encrypt_from_file",
    "get_root_data_map",
    "max_chunk_size",
    "set_default_encoding",
    "shrink_data_map",
    "streaming_decrypt_from_storage",
    "streaming_encrypt_from_file",
    "verify_chunk",
]
