"""Self-encryption: data becomes encrypted chunks, which anyone may keep, and a data map that finds and opens them.

    >>> from self_encryption import decrypt, encrypt
    >>> data_map, chunks = encrypt(b"a few bytes, at least three")
    >>> decrypt(data_map, chunks)
    b'a few bytes, at least three'

It has the calls of the reference implementation's page and of its Python package, reads what both of its encodings
wrote and writes what it reads: encoding=31 is that of releases 0.30 to 0.34 and the default, encoding=36 that of 0.35
and 0.36. Errors have the names of the reference's; all but those of files and of the caller's own functions are Error,
which is a ValueError.

Keep the data map as secret as the data. Both encodings are convergent: whoever can guess a file can tell that it is
stored.
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

# The names that the classes have inside of the reference's package.
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
