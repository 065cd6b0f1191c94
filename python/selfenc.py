"""Self-encryption with the calls of the reference implementation's Python package.

    data_map, chunks = encrypt(data)
    data = decrypt(data_map, chunks)

Needs libselfenc.so (`make libselfenc` makes build/libselfenc/libselfenc.so): beside this file, or where $LIBSELFENC says.
Errors are ValueError; those of files, and of the caller's own functions, are what they were.
"""

import ctypes
import json
import os
import struct

ENCODING = 36  # of crate versions 0.35 and 0.36; 31 is that of 0.30 to 0.34


def _load():
    path = os.environ.get("LIBSELFENC") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "libselfenc.so")
    lib = ctypes.CDLL(path)
    lib.selfenc_free.argtypes = [ctypes.c_void_p]
    lib.selfenc_free.restype = None
    return lib


_lib = _load()
_PUT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_GET = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t)


class _Out:
    """One result that the library allocated."""

    def __init__(self):
        self.p, self.n = ctypes.c_void_p(), ctypes.c_size_t()

    def refs(self):
        return ctypes.byref(self.p), ctypes.byref(self.n)

    def take(self):
        b = ctypes.string_at(self.p, self.n.value)
        _lib.selfenc_free(self.p)
        return b


def _call(function, *args):
    error = ctypes.c_void_p()
    if function(*args, ctypes.byref(error)) != 0:
        text = ctypes.string_at(error).decode()
        _lib.selfenc_free(error)
        raise ValueError(text)


def _in(b):
    b = bytes(b)
    return ctypes.c_char_p(b), ctypes.c_size_t(len(b))


class XorName:
    """A chunk's name: 32 bytes."""

    def __init__(self, name):
        self._name = bytes(name)

    @staticmethod
    def from_content(content):
        out = ctypes.create_string_buffer(32)
        _call(_lib.selfenc_name, ENCODING, *_in(content), out)
        return XorName(out.raw)

    def as_bytes(self):
        return self._name

    def __eq__(self, other):
        return isinstance(other, XorName) and self._name == other._name

    def __hash__(self):
        return hash(self._name)


class ChunkInfo:
    """What a data map says of one chunk."""

    def __init__(self, index, dst_hash, src_hash, src_size):
        self.index, self.dst_hash, self.src_hash, self.src_size = index, dst_hash, src_hash, src_size

    def __eq__(self, other):
        return isinstance(other, ChunkInfo) and vars(self) == vars(other)


class DataMap:
    """Finds and opens the chunks of a file: as secret as the file."""

    def __init__(self, chunk_infos, _child=None):
        self._infos, self._child = list(chunk_infos), _child

    @staticmethod
    def with_child(chunk_infos, child):
        return DataMap(chunk_infos, child)

    @staticmethod
    def from_bytes(b):
        out = _Out()
        _call(_lib.selfenc_map_convert, *_in(b), b"json", *out.refs())
        j = json.loads(out.take())
        infos = [ChunkInfo(c["index"], XorName(c["dst_hash"]), XorName(c["src_hash"]), c["src_size"]) for c in j["chunk_identifiers"]]
        return DataMap(infos, j["child"])

    @staticmethod
    def from_json(json_str):
        return DataMap.from_bytes(json_str.encode())

    def to_bytes(self, form="v1"):
        out = _Out()
        _call(_lib.selfenc_map_convert, *_in(self.to_json().encode()), form.encode(), *out.refs())
        return out.take()

    def to_json(self):
        # The reference's Python package writes hashes in hexadecimal digits, its Rust crate in numbers; ours reads both.
        chunks = [
            {"index": c.index, "dst_hash": c.dst_hash.as_bytes().hex(), "src_hash": c.src_hash.as_bytes().hex(), "src_size": c.src_size}
            for c in self._infos
        ]
        return json.dumps({"chunk_identifiers": chunks, "child": self._child}, separators=(",", ":"))

    def child(self):
        return self._child

    def is_child(self):
        return self._child is not None

    def infos(self):
        return list(self._infos)

    def len(self):
        return len(self._infos)

    __len__ = len

    def __eq__(self, other):
        return isinstance(other, DataMap) and (self._infos, self._child) == (other._infos, other._child)


class EncryptedChunk:
    """A stored chunk."""

    def __init__(self, content):
        self.content = bytes(content)

    def content_size(self):
        return len(self.content)

    def hash(self):
        return XorName.from_content(self.content).as_bytes()


def encrypt(data):
    """Returns the data map and the chunks of at least 3 bytes."""
    data_map, packed = _Out(), _Out()
    _call(_lib.selfenc_encrypt, ENCODING, *_in(data), *data_map.refs(), *packed.refs())
    b, chunks = packed.take(), []
    while b:
        (n,) = struct.unpack_from("<Q", b)
        chunks.append(EncryptedChunk(b[8 : 8 + n]))
        b = b[8 + n :]
    return DataMap.from_bytes(data_map.take()), chunks


def decrypt(data_map, chunks):
    """Returns what the chunks, in any order, were made of."""
    packed = b"".join(struct.pack("<Q", len(c.content)) + c.content for c in chunks)
    out = _Out()
    _call(_lib.selfenc_decrypt, ENCODING, *_in(data_map.to_bytes()), *_in(packed), *out.refs())
    return out.take()


class _Caller:
    """Keeps the first exception of a callback, which C cannot pass on."""

    def __init__(self):
        self.error = None

    def run(self, function, *args):
        if self.error is None:
            try:
                _call(function, *args)
            except ValueError:
                if self.error is None:
                    raise
        if self.error is not None:
            raise self.error


def encrypt_from_file(input_file, output_dir):
    """Encrypts a file of any size into a directory; returns the data map and the chunks' file names."""
    caller, names = _Caller(), []
    with open(input_file, "rb"):
        pass  # OSError, as the reference has it

    @_PUT
    def put(_, name, data, size):
        try:
            hexname = ctypes.string_at(name, 32).hex()
            with open(os.path.join(output_dir, hexname), "wb") as f:
                f.write(ctypes.string_at(data, size))
            names.append(hexname)
            return 0
        except BaseException as e:
            caller.error = caller.error or e
            return -1

    out = _Out()
    caller.run(_lib.selfenc_encrypt_file, ENCODING, os.fsencode(input_file), put, None, *out.refs())
    return DataMap.from_bytes(out.take()), names


def _decrypt_file(data_map, output_file, get_indexed):
    caller = _Caller()

    @_GET
    def get(_, name, index, data, limit):
        try:
            b = get_indexed(index, ctypes.string_at(name, 32).hex())
            if b is None:
                return -1
            b = bytes(b)
            if len(b) > limit:
                return -3
            ctypes.memmove(data, b, len(b))
            return len(b)
        except BaseException as e:
            caller.error = caller.error or e
            return -2

    caller.run(_lib.selfenc_decrypt_file, ENCODING, *_in(data_map.to_bytes()), os.fsencode(output_file), get, None)


def decrypt_from_storage(data_map, output_file, get_chunk):
    """Decrypts to a file with bounded memory; get_chunk(hex name) returns a chunk's bytes."""
    _decrypt_file(data_map, output_file, lambda _, name: get_chunk(name))


def streaming_decrypt_from_storage(data_map, output_file, get_chunks):
    """As decrypt_from_storage; get_chunks([(index, hex name)]) returns [(index, bytes)]."""

    def get(index, name):
        for i, b in get_chunks([(index, name)]):
            if i == index:
                return b
        return None

    _decrypt_file(data_map, output_file, get)
