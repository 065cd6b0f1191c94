"""Reads data that both releases of the reference implementation wrote, and compares the names of chunks."""

import base64
import hashlib
import json
import os
import struct
import tempfile
import unittest
from pathlib import Path

import self_encryption as se

REFERENCE = Path(__file__).resolve().parents[2] / "pkg" / "selfenc" / "testdata" / "reference"
MANIFEST = json.loads((REFERENCE / "manifest.json").read_text())
STORED = json.loads((REFERENCE / "chunks.json").read_text())
RELEASES = {"v0.31": se.Encoding.SE31, "v0.36": se.Encoding.SE36}


def stream(kind, size, count):
    label, out = f"se-golden-v1/{kind}/{size}/".encode(), b""
    for i in range(count // 32 + 1):
        out += hashlib.sha256(label + struct.pack("<Q", i)).digest()
    return out[:count]


def data(kind, size):
    """Returns the input of a case: see "inputs" in the manifest."""
    if kind == "text":
        words = (MANIFEST["inputs"]["words"][b & 63].encode() + (b" ", b"\n")[b >> 6 == 3] for b in stream(kind, size, size // 3 + 1))
        return b"".join(words)[:size]
    return stream(kind, size, size) if kind == "random" else bytes(size)


def cases(error=False):
    for group in MANIFEST["sets"]:
        for case in group["cases"]:
            if error == ("error" in case) and (error or case.get("chunks_stored")):
                yield RELEASES[group["dir"]], case, STORED[group["dir"]]


class Golden(unittest.TestCase):
    def test_read(self):
        seen = set()
        for encoding, case, stored in cases():
            for level in case["levels_final_to_root"]:
                with self.subTest(encoding=encoding, case=case["name"], child=level["child"]):
                    plain = data(case["input"]["kind"], case["input"]["size"])
                    self.assertEqual(hashlib.sha256(plain).hexdigest(), case["input"]["sha256"])
                    form = bytes.fromhex(level["datamap_hex"])
                    data_map = se.DataMap.from_bytes(form, encoding)
                    self.assertEqual(data_map.to_bytes(), form)
                    self.assertEqual(data_map.child(), level["child"])
                    self.assertEqual(data_map.is_child(), level["child"] is not None)
                    self.assertEqual(se.DataMap.from_json(data_map.to_json(), encoding), data_map)
                    got = [(i.index, i.dst_hash.to_hex(), i.src_hash.to_hex(), i.src_size) for i in data_map.infos()]
                    self.assertEqual(got, [(c["index"], c["dst_hash"], c["src_hash"], c["src_size"]) for c in level["chunks"]])
                    get = lambda name: base64.b64decode(stored[name.hex()])
                    self.assertEqual(se.decrypt(data_map, get), plain)
                    self.assertEqual(se.get_root_data_map(data_map, get).original_file_size(), len(plain))
                    seen.add((encoding, data_map.is_child()))
        self.assertEqual(len(seen), 4)

    def test_write(self):
        """Names equal those of the reference, except for maps: brotli differs. See docs/selfenc-format.md, Chunk."""
        for encoding, case, _ in cases():
            with self.subTest(encoding=encoding, case=case["name"]):
                plain = data(case["input"]["kind"], case["input"]["size"])
                data_map, chunks = se.encrypt(plain, encoding)
                root = case["levels_final_to_root"][-1]["chunks"]
                self.assertEqual([c.name().to_hex() for c in chunks[: len(root)]], [c["dst_hash"] for c in root])
                self.assertEqual(len(chunks), len(case["emitted_chunk_order"]))
                self.assertEqual(data_map.child(), case["levels_final_to_root"][0]["child"])
                with tempfile.TemporaryDirectory() as folder:
                    path, store = os.path.join(folder, "f"), se.MemoryStore()
                    Path(path).write_bytes(plain)
                    self.assertEqual(se.streaming_encrypt_from_file(path, store, encoding), data_map)
                    self.assertEqual(store.chunks, {c.hash(): c.content for c in chunks})

    def test_too_small(self):
        count = 0
        for encoding, case, _ in cases(error=True):
            with self.assertRaisesRegex(se.ChunkTooSmall, "at least 3 bytes"):
                se.encrypt(data(case["input"]["kind"], case["input"]["size"]), encoding)
            count += 1
        self.assertGreaterEqual(count, 4)


if __name__ == "__main__":
    unittest.main()
