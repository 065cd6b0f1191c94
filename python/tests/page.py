"""The calls of the reference implementation's documentation page, unchanged except for the installed package.

mypy --strict also checks it.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Dict, Optional

from self_encryption import (
    ChunkStore,
    NoSuchChunk,
    decrypt,
    encrypt,
    get_root_data_map,
    shrink_data_map,
    streaming_decrypt_from_storage,
    streaming_encrypt_from_file,
)


class MemoryStore(ChunkStore):
    def __init__(self) -> None:
        self.chunks: Dict[bytes, bytes] = {}

    def put(self, name: bytes, data: bytes) -> None:
        self.chunks[name] = data

    def get(self, name: bytes) -> Optional[bytes]:
        return self.chunks.get(name)


class DiskStore(ChunkStore):
    def __init__(self, root_dir: Path) -> None:
        self.root_dir = root_dir
        self.root_dir.mkdir(parents=True, exist_ok=True)

    def put(self, name: bytes, data: bytes) -> None:
        path = self.root_dir / name.hex()
        path.write_bytes(data)

    def get(self, name: bytes) -> Optional[bytes]:
        path = self.root_dir / name.hex()
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def in_memory() -> None:
    data = b"Small data to encrypt"
    data_map, encrypted_chunks = encrypt(data)
    held = {hashlib.sha3_256(chunk.content).digest(): chunk.content for chunk in encrypted_chunks}

    def get_chunk(name: bytes) -> bytes:
        return held[name]

    assert decrypt(data_map, get_chunk) == data
    assert decrypt(data_map, encrypted_chunks) == data


def streaming(store: ChunkStore, folder: Path) -> None:
    file_path, output_path = folder / "my_file.txt", folder / "decrypted_file.txt"
    file_path.write_bytes(os.urandom(5 << 20))
    data_map = streaming_encrypt_from_file(file_path, store)
    assert data_map.len() == 3 and data_map.is_child()
    streaming_decrypt_from_storage(data_map, store, output_path)
    assert output_path.read_bytes() == file_path.read_bytes()

    root_map = get_root_data_map(data_map, store)
    assert [info.src_size for info in root_map.infos()] == [1 << 20] * 5
    assert shrink_data_map(root_map, store) == data_map


def lost(folder: Path) -> None:
    store = MemoryStore()
    data_map = streaming_encrypt_from_file(folder / "my_file.txt", store)
    store.chunks.popitem()
    try:
        streaming_decrypt_from_storage(data_map, store, folder / "lost.txt")
    except NoSuchChunk as e:
        assert "chunk" in str(e)
    else:
        raise SystemExit("a lost chunk was not noticed")
    assert not (folder / "lost.txt").exists()


def main() -> None:
    in_memory()
    with tempfile.TemporaryDirectory() as folder:
        streaming(MemoryStore(), Path(folder))
        streaming(DiskStore(Path(folder, "chunks")), Path(folder))
        lost(Path(folder))
    print("as on the page")


if __name__ == "__main__":
    main()
