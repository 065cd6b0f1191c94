"""Encryption and decryption."""

from __future__ import annotations

import inspect
import os
import struct
from typing import Callable, Iterable, List, Optional, Tuple, Union, overload

from ._errors import InvalidChunkSize
from ._library import Callbacks, Out, call
from ._stores import ChunkStore, DiskStore
from ._types import Buffer, DataMap, EncryptedChunk, bytes_of, encoding_of

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Put = Callable[[bytes, bytes], object]
Get = Callable[[bytes], Optional[bytes]]


def _path(path: Path) -> bytes:
    b = os.fsencode(path)
    if b"\0" in b:
        raise ValueError("embedded null byte")
    return b


def _map(data_map: DataMap) -> Tuple[int, bytes, int]:
    if not isinstance(data_map, DataMap):
        raise TypeError(f"data_map must be DataMap, not {type(data_map).__name__}")
    b = data_map.to_bytes("v1")
    return data_map.encoding, b, len(b)


def _size(chunk_size: Optional[int]) -> int:
    if chunk_size is None:
        return 0
    if not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be int, not {type(chunk_size).__name__}")
    if not 0 < chunk_size < 1 << 31:
        raise InvalidChunkSize(f"invalid chunk size: {chunk_size} bytes")
    return chunk_size


def _form(map_form: Optional[str]) -> Optional[bytes]:
    if map_form is not None and not isinstance(map_form, str):
        raise TypeError(f"map_form must be str, not {type(map_form).__name__}")
    return map_form if map_form is None else map_form.encode("utf-8", "replace").replace(b"\0", b"?")


def _method(store: object, name: str) -> Callable[..., object]:
    """A store's method, or the store itself if it is a function."""
    method = getattr(store, name, None)
    if callable(method):
        return method  # type: ignore[no-any-return] # checked when it is called
    if callable(store):
        return store
    raise TypeError(f"a store must be a ChunkStore with {name}, or a function, not {type(store).__name__}")


def _putter(store: object) -> Callable[[bytes, bytes], object]:
    put = _method(store, "put")

    def checked(name: bytes, data: bytes) -> None:
        # A result that is never awaited would never be stored.
        if inspect.isawaitable(result := put(name, data)):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("put is asynchronous: it must be a normal function that has stored the chunk when it returns")

    return checked


def _getter(store: object) -> Callable[[int, bytes], Optional[bytes]]:
    get = _method(store, "get")
    return lambda _, name: _chunk(get(name))


def _chunk(chunk: object) -> Optional[bytes]:
    if chunk is None or isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, EncryptedChunk):
        return chunk.content
    if inspect.iscoroutine(chunk):
        chunk.close()
    return bytes_of(chunk, "the result of get")  # type: ignore[arg-type] # bytes_of refuses other types


def encrypt(
    data: Buffer, encoding: Optional[int] = None, chunk_size: Optional[int] = None, map_form: Optional[str] = None
) -> Tuple[DataMap, List[EncryptedChunk]]:
    """Encrypts at least 3 bytes, and returns the data map and the chunks to store.

    encoding is 31 or 36; without it, default_encoding() is used. chunk_size is the maximum plaintext of a chunk in
    bytes, less than 64 MiB; without it, the encoding's default is used. Use map_form="v1" for files of more than three
    chunks that releases 0.32 to 0.34 must read. Raises ChunkTooSmall for less than 3 bytes, and ChunkTooLarge for 2 GiB
    or more.
    """
    kind, size, b = encoding_of(encoding), _size(chunk_size), bytes_of(data, "data")
    data_map, packed = Out(), Out()
    call("selfenc_encrypt", kind, size, _form(map_form), b, len(b), *data_map.refs(), *packed.refs())
    listed = memoryview(packed.take())
    chunks, at = [], 0
    while at < len(listed):
        (n,) = struct.unpack_from("<Q", listed, at)
        chunks.append(EncryptedChunk(listed[at + 8 : at + 8 + n], kind))
        at += 8 + n
    return DataMap.from_bytes(data_map.take(), kind), chunks


def decrypt(data_map: DataMap, chunks: Union[ChunkStore, Get, Iterable[Union[EncryptedChunk, Buffer]]]) -> bytes:
    """Decrypts the data of a map, less than 2 GiB, and returns it.

    chunks is an iterable of the chunks in any order, a store, or a function that returns the chunk of a name (32
    bytes). Exceptions of the function are passed on. If it returns None, NoSuchChunk is raised.
    """
    encoding, b, n = _map(data_map)
    out = Out()
    if isinstance(chunks, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"chunks must be a list, a store or a function, not {type(chunks).__name__}")
    if callable(chunks) or hasattr(chunks, "get"):
        callbacks = Callbacks()
        get = callbacks.get(_getter(chunks))
        callbacks.call("selfenc_decrypt_store", encoding, b, n, get, None, *out.refs())
        return out.take()
    parts: List[bytes] = []
    for chunk in chunks:
        content = chunk.content if isinstance(chunk, EncryptedChunk) else bytes_of(chunk, "a chunk")
        parts += struct.pack("<Q", len(content)), content
    packed = b"".join(parts)
    call("selfenc_decrypt", encoding, b, n, packed, len(packed), *out.refs())
    return out.take()


def streaming_encrypt_from_file(
    file_path: Path,
    store: Union[ChunkStore, Put],
    encoding: Optional[int] = None,
    chunk_size: Optional[int] = None,
    map_form: Optional[str] = None,
) -> DataMap:
    """Encrypts a file of any size with bounded memory, puts its chunks into store, and returns the data map.

    store is a ChunkStore, or a function of name and data. An exception of the store ends the call and is passed on. The
    other parameters are those of encrypt.
    """
    kind, size, path = encoding_of(encoding), _size(chunk_size), _path(file_path)
    callbacks, out = Callbacks(), Out()
    put = callbacks.put(_putter(store))
    callbacks.call("selfenc_encrypt_file", kind, size, _form(map_form), path, put, None, *out.refs())
    return DataMap.from_bytes(out.take(), kind)


def _decrypt_file(data_map: DataMap, output: Path, get: Callable[[int, bytes], Optional[bytes]]) -> None:
    encoding, b, n = _map(data_map)
    path, callbacks = _path(output), Callbacks()
    callback = callbacks.get(get)
    callbacks.call("selfenc_decrypt_file", encoding, b, n, path, callback, None)


@overload
def streaming_decrypt_from_storage(data_map: DataMap, store: Union[ChunkStore, Get], output_path: Path) -> None: ...


@overload
def streaming_decrypt_from_storage(
    data_map: DataMap, store: Path, output_path: Callable[[List[Tuple[int, str]]], Iterable[Tuple[int, bytes]]]
) -> None: ...


def streaming_decrypt_from_storage(data_map: DataMap, store: object, output_path: object) -> None:
    """Decrypts to a file with bounded memory. The file has mode 0600, and gets its name only when it is complete.

    store is a ChunkStore, or a function that returns the chunk of a name (32 bytes). For compatibility with the
    reference implementation's package, the arguments may also be output_path and then a function
    get_chunks([(index, hexadecimal name)]) that returns [(index, bytes)].
    """
    if not isinstance(store, (str, bytes, os.PathLike)):
        _decrypt_file(data_map, output_path, _getter(store))  # type: ignore[arg-type] # _path refuses other types
        return
    if not callable(output_path):
        raise TypeError(f"get_chunks must be a function, not {type(output_path).__name__}")

    def get(index: int, name: bytes) -> Optional[bytes]:
        for i, chunk in output_path([(index, name.hex())]):
            if i == index:
                return _chunk(chunk)
        return None

    _decrypt_file(data_map, store, get)


def shrink_data_map(data_map: DataMap, store: Union[ChunkStore, Put], map_form: Optional[str] = None) -> DataMap:
    """Encrypts a map of more than three chunks into store, until at most three chunks remain, and returns the last map.

    encrypt and streaming_encrypt_from_file already do this. map_form is the same as for encrypt.
    """
    encoding, b, n = _map(data_map)
    callbacks, out = Callbacks(), Out()
    put = callbacks.put(_putter(store))
    callbacks.call("selfenc_shrink", encoding, _form(map_form), b, n, put, None, *out.refs())
    return DataMap.from_bytes(out.take(), encoding)


def get_root_data_map(data_map: DataMap, store: Union[ChunkStore, Get]) -> DataMap:
    """Returns the map of the data itself: the map from which shrink_data_map made data_map."""
    encoding, b, n = _map(data_map)
    callbacks, out = Callbacks(), Out()
    get = callbacks.get(_getter(store))
    callbacks.call("selfenc_root_map", encoding, b, n, get, None, *out.refs())
    return DataMap.from_bytes(out.take(), encoding)


def encrypt_from_file(
    input_file: Path, output_dir: Union[str, "os.PathLike[str]"], encoding: Optional[int] = None, map_form: Optional[str] = None
) -> Tuple[DataMap, List[str]]:
    """Encrypts a file of any size into an existing directory. Returns the data map and the file names of the chunks."""
    if not os.path.isdir(output_dir):
        raise NotADirectoryError(20, "not a directory", os.fspath(output_dir))
    disk, names = DiskStore(output_dir), []

    def put(name: bytes, data: bytes) -> None:
        disk.put(name, data)
        names.append(name.hex())

    return streaming_encrypt_from_file(input_file, put, encoding, None, map_form), names


def decrypt_from_storage(data_map: DataMap, output_file: Path, get_chunk: Callable[[str], Optional[bytes]]) -> None:
    """Decrypts to a file with bounded memory. get_chunk returns the chunk of a name in hexadecimal digits."""
    if not callable(get_chunk):
        raise TypeError(f"get_chunk must be a function, not {type(get_chunk).__name__}")
    _decrypt_file(data_map, output_file, lambda _, name: _chunk(get_chunk(name.hex())))
