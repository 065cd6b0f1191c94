"""Data maps, chunks and names."""

from __future__ import annotations

import ctypes
import enum
import json
from typing import Iterable, List, Optional, Union

from ._errors import Decryption, Serialisation
from ._library import Out, call

Buffer = Union[bytes, bytearray, memoryview]

MIN_CHUNK_SIZE = 1
"""The minimum plaintext of a chunk, in bytes."""
MAX_CHUNK_SIZE = 1 << 20
"""The maximum plaintext of a chunk in the default encoding, in bytes. See also max_chunk_size."""
MIN_ENCRYPTABLE_BYTES = 3
"""The minimum size of data that can be encrypted, in bytes."""
COMPRESSION_QUALITY = 6
"""The quality of brotli compression, from 0 to 11."""


class Encoding(enum.IntEnum):
    """The format of chunks."""

    SE31 = 31
    """The encoding of releases 0.30 to 0.34: names are SHA3-256, chunks have up to 1 MiB, the cipher is AES-128-CBC."""
    SE36 = 36
    """The encoding of releases 0.35 and 0.36: names are BLAKE3, chunks have up to 4 MiB - 4 KiB, the cipher is
    ChaCha20-Poly1305."""


_default = Encoding.SE31


def default_encoding() -> Encoding:
    """Returns the encoding of calls without an encoding: SE31, unless set_default_encoding was called."""
    return _default


def set_default_encoding(encoding: int) -> None:
    """Sets the encoding, 31 or 36, of all calls in this process without an encoding. Call it once, at the start."""
    global _default
    _default = encoding_of(encoding)


def encoding_of(encoding: Optional[int]) -> Encoding:
    if encoding is None:
        return _default
    if not isinstance(encoding, int):
        raise TypeError(f"encoding must be 31 or 36, not {type(encoding).__name__}")
    return Encoding(encoding)


def max_chunk_size(encoding: Optional[int] = None) -> int:
    """Returns the maximum plaintext of a chunk that the releases of an encoding write, in bytes."""
    return MAX_CHUNK_SIZE if encoding_of(encoding) is Encoding.SE31 else (4 << 20) - (4 << 10)


def bytes_of(data: Buffer, what: str) -> bytes:
    """Returns the bytes of a bytes-like object. It refuses others: bytes(5) would return five zeros."""
    if isinstance(data, bytes):
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(f"{what} must be bytes, not {type(data).__name__}") from None


class XorName:
    """The name of a stored chunk: the hash of its content, 32 bytes."""

    __slots__ = ("_name",)

    def __init__(self, name: Buffer) -> None:
        self._name = bytes_of(name, "a name")
        if len(self._name) != 32:
            raise ValueError(f"a name must have 32 bytes, not {len(self._name)}")

    @staticmethod
    def from_content(content: Buffer, encoding: Optional[int] = None) -> XorName:
        """Returns the name of a stored chunk with this content."""
        out, b = bytearray(32), bytes_of(content, "content")
        call("selfenc_name", encoding_of(encoding), b, len(b), (ctypes.c_char * 32).from_buffer(out))
        return XorName(out)

    @staticmethod
    def from_hex(text: str) -> XorName:
        """Parses the result of to_hex."""
        return XorName(bytes.fromhex(text))

    def as_bytes(self) -> bytes:
        """Returns the 32 bytes."""
        return self._name

    def to_hex(self) -> str:
        """Returns 64 hexadecimal digits, as used for file names."""
        return self._name.hex()

    def __bytes__(self) -> bytes:
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, XorName) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"XorName.from_hex({self.to_hex()!r})"


class ChunkInfo:
    """The entry of a data map for one chunk."""

    __slots__ = ("dst_hash", "index", "src_hash", "src_size")

    def __init__(self, index: int, dst_hash: XorName, src_hash: XorName, src_size: int) -> None:
        for number in index, src_size:
            if not isinstance(number, int):
                raise TypeError(f"index and src_size must be int, not {type(number).__name__}")
        for name in dst_hash, src_hash:
            if not isinstance(name, XorName):
                raise TypeError(f"dst_hash and src_hash must be XorName, not {type(name).__name__}")
        self.index = index  #: its index in the map, from 0
        self.dst_hash = dst_hash  #: its name: the hash of the stored bytes
        self.src_hash = src_hash  #: the hash of its plaintext, which must be kept secret
        self.src_size = src_size  #: size of its plaintext in bytes

    def _key(self) -> tuple[int, XorName, XorName, int]:
        return self.index, self.dst_hash, self.src_hash, self.src_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkInfo) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:  # without src_hash, which can decrypt chunks
        return f"<ChunkInfo {self.index}: {self.dst_hash.to_hex()}, {self.src_size} bytes>"


class DataMap:
    """Finds and decrypts the chunks of some data. Keep it as secret as the data.

    A map of more than three chunks is itself encrypted into chunks. child() returns the number of such levels.
    """

    def __init__(self, chunk_infos: Iterable[ChunkInfo], child: Optional[int] = None, encoding: Optional[int] = None) -> None:
        self._infos = list(chunk_infos)
        for info in self._infos:
            if not isinstance(info, ChunkInfo):
                raise TypeError(f"the entries of a data map must be ChunkInfo, not {type(info).__name__}")
        if child is not None and not isinstance(child, int):
            raise TypeError(f"child must be int or None, not {type(child).__name__}")
        self._child = child
        self._encoding = encoding_of(encoding)

    @staticmethod
    def with_child(chunk_infos: Iterable[ChunkInfo], child: int, encoding: Optional[int] = None) -> DataMap:
        """Returns a map that is child levels above the data."""
        return DataMap(chunk_infos, child, encoding)

    @staticmethod
    def from_bytes(data: Buffer, encoding: Optional[int] = None) -> DataMap:
        """Parses a map in the form of any release. The bytes do not record the encoding of the chunks."""
        out, b = Out(), bytes_of(data, "a data map")
        call("selfenc_map_convert", b, len(b), b"json", *out.refs())
        read = json.loads(out.take())
        infos = [
            ChunkInfo(c["index"], XorName(bytes(c["dst_hash"])), XorName(bytes(c["src_hash"])), c["src_size"])
            for c in read["chunk_identifiers"]
        ]
        return DataMap(infos, read["child"], encoding)

    @staticmethod
    def from_json(json_str: str, encoding: Optional[int] = None) -> DataMap:
        """Parses the result of to_json, of this package or of the reference implementation's."""
        if not isinstance(json_str, str):
            raise TypeError(f"JSON must be str, not {type(json_str).__name__}")
        if not json_str.startswith("{"):
            raise Serialisation("malformed data map: not a JSON object")
        return DataMap.from_bytes(json_str.encode("utf-8", "surrogatepass"), encoding)

    def to_bytes(self, form: Optional[str] = None) -> bytes:
        """Returns the map in a form: "v1" (releases 0.33 to 0.36), "v0c" (0.31), "v0" (0.30.0) or "json".

        The default is "v0c" for SE31 and "v1" for SE36.
        """
        if form is None:
            form = "v0c" if self._encoding is Encoding.SE31 else "v1"
        out, b = Out(), self.to_json().encode()
        call("selfenc_map_convert", b, len(b), form.encode(), *out.refs())
        return out.take()

    def to_json(self) -> str:
        """Returns the map as JSON, in the form of the reference implementation's Python package."""
        chunks = [
            {"index": c.index, "dst_hash": c.dst_hash.to_hex(), "src_hash": c.src_hash.to_hex(), "src_size": c.src_size}
            for c in self._infos
        ]
        return json.dumps({"chunk_identifiers": chunks, "child": self._child}, separators=(",", ":"))

    @property
    def encoding(self) -> Encoding:
        """The encoding of the chunks."""
        return self._encoding

    def child(self) -> Optional[int]:
        """Returns the number of levels above the data, or None for the map of the data itself."""
        return self._child

    def is_child(self) -> bool:
        """Tells whether the chunks of the map contain another map."""
        return self._child is not None

    def infos(self) -> List[ChunkInfo]:
        """Returns the entries for the chunks, in order."""
        return list(self._infos)

    def len(self) -> int:
        """Returns the number of chunks."""
        return len(self._infos)

    def original_file_size(self) -> int:
        """Returns the plaintext bytes of the chunks. If is_child(), these are the bytes of the map below."""
        return sum(info.src_size for info in self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataMap) and (self._infos, self._child, self._encoding) == (
            other._infos,
            other._child,
            other._encoding,
        )

    __hash__ = None  # type: ignore[assignment] # not hashable, like a list

    def __repr__(self) -> str:
        return f"<DataMap of {len(self._infos)} chunks, {self._encoding.name}, child {self._child}>"


class EncryptedChunk:
    """An encrypted chunk, as it is stored."""

    __slots__ = ("content", "encoding")

    def __init__(self, content: Buffer, encoding: Optional[int] = None) -> None:
        self.content = bytes_of(content, "content")  #: the bytes to store
        self.encoding = encoding_of(encoding)  #: determines how its name is computed

    def content_size(self) -> int:
        """Returns the number of bytes to store."""
        return len(self.content)

    def name(self) -> XorName:
        """Returns the name to store the chunk under."""
        return XorName.from_content(self.content, self.encoding)

    def hash(self) -> bytes:
        """Returns the name as bytes."""
        return self.name().as_bytes()

    def __bytes__(self) -> bytes:
        return self.content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncryptedChunk) and (self.content, self.encoding) == (other.content, other.encoding)

    __hash__ = None  # type: ignore[assignment] # not hashable: its content can be changed

    def __repr__(self) -> str:
        return f"<EncryptedChunk of {len(self.content)} bytes, {self.encoding.name}>"


def verify_chunk(name: Union[XorName, Buffer], content: Buffer, encoding: Optional[int] = None) -> EncryptedChunk:
    """Returns the chunk with this content. If it does not have this name, raises Decryption."""
    want = name if isinstance(name, XorName) else XorName(name)
    chunk = EncryptedChunk(content, encoding)
    if chunk.name() != want:
        raise Decryption(f"chunk is corrupt: its name is {chunk.name().to_hex()}, not {want.to_hex()}")
    return chunk
