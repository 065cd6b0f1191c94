"""Uses the shared library with ctypes. Usage: test.py LIBRARY IMAGE."""
import ctypes
import json
import sys

lib = ctypes.CDLL(sys.argv[1])
H, STR, U64, SIZE, I32, BYTES = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int32, ctypes.c_char_p
lib.fs_create_disk.restype = H
lib.fs_create_disk.argtypes = [STR, U64, ctypes.c_uint32, I32, BYTES, SIZE]
lib.fs_write_file.argtypes = [H, STR, U64, BYTES, SIZE]
lib.fs_read_file.argtypes = [H, STR, U64, SIZE, BYTES, ctypes.POINTER(SIZE)]
lib.fs_list_dir.restype = H
lib.fs_list_dir.argtypes = [H, STR, ctypes.POINTER(I32)]
lib.fs_free_string.argtypes = [H]
for name in ("fs_init_filesystem", "fs_open", "fs_sync", "fs_destroy"):
    getattr(lib, name).argtypes = [H]
for name in ("fs_create_file", "fs_create_dir", "fs_remove_file"):
    getattr(lib, name).argtypes = [H, STR]

key, image = bytes(range(32)), sys.argv[2].encode()
fs = lib.fs_create_disk(image, 200, 4096, 1, key, len(key))
assert fs and lib.fs_init_filesystem(fs) == 0
assert lib.fs_create_dir(fs, "ünïcode".encode()) == 0
assert lib.fs_create_file(fs, "ünïcode/file".encode()) == 0
data = bytes(range(256)) * 100
assert lib.fs_write_file(fs, "ünïcode/file".encode(), 7, data, len(data)) == 0
assert lib.fs_sync(fs) == 0
lib.fs_destroy(fs)
assert lib.fs_open(fs) == -4
lib.fs_destroy(fs)

fs = lib.fs_create_disk(image, 0, 4096, 0, key, len(key))
assert fs and lib.fs_open(fs) == 0
err = I32(1)
raw = lib.fs_list_dir(fs, "ünïcode".encode(), ctypes.byref(err))
entries = json.loads(ctypes.string_at(raw).decode())
lib.fs_free_string(raw)
assert err.value == 0 and entries == [{"name": "file", "kind": "File", "size": len(data) + 7, "inode_id": 3}], entries
buf, got = ctypes.create_string_buffer(len(data) + 100), SIZE()
assert lib.fs_read_file(fs, "ünïcode/file".encode(), 0, len(buf), buf, ctypes.byref(got)) == 0
assert buf.raw[: got.value] == bytes(7) + data
assert lib.fs_remove_file(fs, "ünïcode".encode()) == -12
lib.fs_destroy(fs)
print("ok")
