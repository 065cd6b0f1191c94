"""Data maps, chunks and names, which the caller keeps."""

from __future__ import annotations

import ctypes
import enum
import json
from typing import Iterable, List, Optional, Union

from ._errors import Decryption, Serialisation
from ._library import Out, call

Buffer = Union[bytes, bytearray, memoryview]

MIN_CHUNK_SIZE = 1
"""The least plaintext of a chunk, in bytes."""
MAX_CHUNK_SIZE = 1 << 20
"""The most plaintext of a chunk in the default encoding, in bytes; max_chunk_size says it of each."""
MIN_ENCRYPTABLE_BYTES = 3
"""The least that can be encrypted."""
COMPRESSION_QUALITY = 6
"""Of brotli, 0 to 11."""


class Encoding(enum.IntEnum):
    """How data becomes chunks."""

    SE31 = 31
    """Of releases 0.30 to 0.34: names are SHA3-256, chunks have up to 1 MiB, the cipher is AES-128-CBC."""
    SE36 = 36
    """Of releases 0.35 and 0.36: names are BLAKE3, chunks have up to 4 MiB - 4 KiB, the cipher is ChaCha20-Poly1305."""


_default = Encoding.SE31


def default_encoding() -> Encoding:
    """What calls use that are not told an encoding: SE31, unless set_default_encoding was called."""
    return _default


def set_default_encoding(encoding: int) -> None:
    """Sets the encoding, 31 or 36, of all calls in this process that are not told one. Best called once, at the start."""
    global _default
    _default = encoding_of(encoding)


def encoding_of(encoding: Optional[int]) -> Encoding:
    if encoding is None:
        return _default
    if not isinstance(encoding, int):
        raise TypeError(f"encoding is 31 or 36, not a {type(encoding).__name__}")
    return Encoding(encoding)


def max_chunk_size(encoding: Optional[int] = None) -> int:
    """The most plaintext of a chunk, in bytes, that an encoding's releases write."""
    return MAX_CHUNK_SIZE if encoding_of(encoding) is Encoding.SE31 else (4 << 20) - (4 << 10)


def bytes_of(data: Buffer, what: str) -> bytes:
    """The bytes of anything that has some, and of nothing else: bytes(5) has five."""
    if isinstance(data, bytes):
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(f"{what} must be bytes, not {type(data).__name__}") from None


class XorName:
    """The name of a stored chunk: the 32 bytes that are the hash of its content."""

    __slots__ = ("_name",)

    def __init__(self, name: Buffer) -> None:
        self._name = bytes_of(name, "a name")
        if len(self._name) != 32:
            raise ValueError(f"a name has 32 bytes, not {len(self._name)}")

    @staticmethod
    def from_content(content: Buffer, encoding: Optional[int] = None) -> XorName:
        """The name that a stored chunk of this content has."""
        out, b = bytearray(32), bytes_of(content, "content")
        call("selfenc_name", encoding_of(encoding), b, len(b), (ctypes.c_char * 32).from_buffer(out))
        return XorName(out)

    @staticmethod
    def from_hex(text: str) -> XorName:
        """Reads what to_hex wrote."""
        return XorName(bytes.fromhex(text))

    def as_bytes(self) -> bytes:
        """The 32 bytes."""
        return self._name

    def to_hex(self) -> str:
        """64 hexadecimal digits, as names of files are."""
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
    """What a data map says of one chunk."""

    __slots__ = ("dst_hash", "index", "src_hash", "src_size")

    def __init__(self, index: int, dst_hash: XorName, src_hash: XorName, src_size: int) -> None:
        for number in index, src_size:
            if not isinstance(number, int):
                raise TypeError(f"index and src_size must be int, not {type(number).__name__}")
        for name in dst_hash, src_hash:
            if not isinstance(name, XorName):
                raise TypeError(f"dst_hash and src_hash must be XorName, not {type(name).__name__}")
        self.index = index  #: its place, from 0
        self.dst_hash = dst_hash  #: its name: the hash of what is stored
        self.src_hash = src_hash  #: the hash of its plaintext, which is secret
        self.src_size = src_size  #: bytes of plaintext

    def _key(self) -> tuple[int, XorName, XorName, int]:
        return self.index, self.dst_hash, self.src_hash, self.src_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkInfo) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:  # without src_hash, which decrypts
        return f"<ChunkInfo {self.index}: {self.dst_hash.to_hex()}, {self.src_size} bytes>"


class DataMap:
    """Finds and opens the chunks of some data: it is as secret as the data.

    The map of more than three chunks is itself encrypted to chunks; child() says how often that was done.
    """

    def __init__(self, chunk_infos: Iterable[ChunkInfo], child: Optional[int] = None, encoding: Optional[int] = None) -> None:
        self._infos = list(chunk_infos)
        for info in self._infos:
            if not isinstance(info, ChunkInfo):
                raise TypeError(f"a data map is made of ChunkInfo, not {type(info).__name__}")
        if child is not None and not isinstance(child, int):
            raise TypeError(f"child must be int or None, not {type(child).__name__}")
        self._child = child
        self._encoding = encoding_of(encoding)

    @staticmethod
    def with_child(chunk_infos: Iterable[ChunkInfo], child: int, encoding: Optional[int] = None) -> DataMap:
        """A map that is so many levels above the data."""
        return DataMap(chunk_infos, child, encoding)

    @staticmethod
    def from_bytes(data: Buffer, encoding: Optional[int] = None) -> DataMap:
        """Reads a map in any of the releases' forms. It does not say of which encoding its chunks are."""
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
        """Reads what to_json wrote, here or in the reference's package."""
        if not isinstance(json_str, str):
            raise TypeError(f"JSON must be str, not {type(json_str).__name__}")
        if not json_str.startswith("{"):
            raise Serialisation("malformed data map: no JSON object")
        return DataMap.from_bytes(json_str.encode("utf-8", "surrogatepass"), encoding)

    def to_bytes(self, form: Optional[str] = None) -> bytes:
        """The map in a form: "v1" of releases 0.33 to 0.36, "v0c" of 0.31, "v0" of 0.30.0, "json".

        Without form it is "v0c" for SE31 and "v1" for SE36.
        """
        if form is None:
            form = "v0c" if self._encoding is Encoding.SE31 else "v1"
        out, b = Out(), self.to_json().encode()
        call("selfenc_map_convert", b, len(b), form.encode(), *out.refs())
        return out.take()

    def to_json(self) -> str:
        """The map in JSON, as the reference's Python package writes it."""
        chunks = [
            {"index": c.index, "dst_hash": c.dst_hash.to_hex(), "src_hash": c.src_hash.to_hex(), "src_size": c.src_size}
            for c in self._infos
        ]
        return json.dumps({"chunk_identifiers": chunks, "child": self._child}, separators=(",", ":"))

    @property
    def encoding(self) -> Encoding:
        """Of the chunks."""
        return self._encoding

    def child(self) -> Optional[int]:
        """How many levels it is above the data; None if it is the data's own."""
        return self._child

    def is_child(self) -> bool:
        """Whether its chunks hold another map."""
        return self._child is not None

    def infos(self) -> List[ChunkInfo]:
        """What it says of its chunks, in order."""
        return list(self._infos)

    def len(self) -> int:
        """How many chunks it has."""
        return len(self._infos)

    def original_file_size(self) -> int:
        """Bytes of plaintext of its chunks; with a child they are the bytes of the map below."""
        return sum(info.src_size for info in self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataMap) and (self._infos, self._child, self._encoding) == (
            other._infos,
            other._child,
            other._encoding,
        )

    __hash__ = None  # type: ignore[assignment] # as lists, which it is one of

    def __repr__(self) -> str:
        return f"<DataMap of {len(self._infos)} chunks, {self._encoding.name}, child {self._child}>"


class EncryptedChunk:
    """A chunk as it is stored."""

    __slots__ = ("content", "encoding")

    def __init__(self, content: Buffer, encoding: Optional[int] = None) -> None:
        self.content = bytes_of(content, "content")  #: the bytes to store
        self.encoding = encoding_of(encoding)  #: which says what its name is

    def content_size(self) -> int:
        """How many bytes are to be stored."""
        return len(self.content)

    def name(self) -> XorName:
        """What it is to be stored under."""
        return XorName.from_content(self.content, self.encoding)

    def hash(self) -> bytes:
        """Its name, as bytes."""
        return self.name().as_bytes()

    def __bytes__(self) -> bytes:
        return self.content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncryptedChunk) and (self.content, self.encoding) == (other.content, other.encoding)

    __hash__ = None  # type: ignore[assignment] # its content can be set

    def __repr__(self) -> str:
        return f"<EncryptedChunk of {len(self.content)} bytes, {self.encoding.name}>"


def verify_chunk(name: Union[XorName, Buffer], content: Buffer, encoding: Optional[int] = None) -> EncryptedChunk:
    """The chunk of this content, if that is its name; else Decryption is raised."""
    want = name if isinstance(name, XorName) else XorName(name)
    chunk = EncryptedChunk(content, encoding)
    if chunk.name() != want:
        raise Decryption(f"chunk is corrupt: its name is {chunk.name().to_hex()}, not {want.to_hex()}")
    return chunk
