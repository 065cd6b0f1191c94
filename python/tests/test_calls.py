"""Tests each function: arguments, errors, and exceptions that it passes on."""

import contextlib
import hashlib
import os
import pickle
import sqlite3
import tempfile
import unittest
from pathlib import Path

import self_encryption as se

DATA = b"some data, to be encrypted"


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file, self.back = self.folder / "file", self.folder / "back"
        self.file.write_bytes(DATA)
        self.data_map, self.chunks = se.encrypt(DATA)
        self.held = {c.hash(): c.content for c in self.chunks}


class Values(Case):
    def test_constants(self):
        self.assertEqual((se.MIN_CHUNK_SIZE, se.MAX_CHUNK_SIZE, se.MIN_ENCRYPTABLE_BYTES, se.COMPRESSION_QUALITY), (1, 1 << 20, 3, 6))
        self.assertEqual((se.max_chunk_size(), se.max_chunk_size(31), se.max_chunk_size(36)), (1 << 20, 1 << 20, 4190208))

    def test_encodings(self):
        self.assertEqual(se.default_encoding(), se.Encoding.SE31)
        self.addCleanup(se.set_default_encoding, 31)
        self.assertEqual(self.chunks[0].hash(), hashlib.sha3_256(self.chunks[0].content).digest())
        se.set_default_encoding(36)
        newer, chunks = se.encrypt(DATA)
        self.assertEqual(newer.encoding, se.Encoding.SE36)
        self.assertNotEqual(chunks[0].hash(), hashlib.sha3_256(chunks[0].content).digest())
        self.assertEqual(se.decrypt(newer, chunks), DATA)
        self.assertEqual(se.decrypt(self.data_map, self.chunks), DATA)  # the map has its own encoding
        self.assertEqual(se.DataMap.from_json(newer.to_json()), newer)
        self.assertNotEqual(se.DataMap.from_json(newer.to_json(), 31), newer)
        self.assertEqual(bytes(se.XorName.from_content(b"abc"))[:4].hex(), "6437b3ac")  # BLAKE3
        with self.assertRaises(se.NoSuchChunk):
            se.decrypt(se.DataMap.from_json(newer.to_json(), 31), chunks)

    def test_names(self):
        name = se.XorName.from_content(b"abc")
        self.assertEqual(name.as_bytes(), hashlib.sha3_256(b"abc").digest())
        self.assertEqual(se.XorName.from_hex(name.to_hex()), name)
        self.assertEqual({name: 1}[se.XorName(bytes(name))], 1)
        self.assertEqual(se.XorName.from_content(b"").to_hex(), hashlib.sha3_256(b"").hexdigest())

    def test_maps(self):
        m = self.data_map
        self.assertEqual((m.len(), len(m), m.child(), m.is_child(), m.original_file_size()), (3, 3, None, False, len(DATA)))
        self.assertEqual(se.DataMap(m.infos()), m)
        self.assertEqual(se.DataMap.with_child(m.infos(), 2).child(), 2)
        for form in None, "v0", "v0c", "v1", "json":
            self.assertEqual(se.DataMap.from_bytes(m.to_bytes(form)), m)
        self.assertEqual(pickle.loads(pickle.dumps(m)), m)
        for info in m.infos():
            self.assertNotIn(info.src_hash.to_hex(), repr(info) + repr(m))  # it can decrypt the chunk

    def test_chunks(self):
        c = self.chunks[0]
        self.assertEqual((c.content_size(), bytes(c)), (len(c.content), c.content))
        self.assertEqual(se.verify_chunk(c.hash(), c.content), c)
        self.assertEqual(se.verify_chunk(c.name(), c.content), c)
        with self.assertRaisesRegex(se.Decryption, "chunk"):
            se.verify_chunk(c.name(), c.content + b"x")

    def test_chunk_size(self):
        for encoding in se.Encoding:
            small, chunks = se.encrypt(bytes(range(256)) * 40, encoding, chunk_size=1024)
            root = se.get_root_data_map(small, {c.hash(): c.content for c in chunks})
            self.assertEqual([i.src_size for i in root.infos()], [1024] * 10)
            self.assertEqual(se.decrypt(small, chunks), bytes(range(256)) * 40)
            self.assertEqual(se.streaming_encrypt_from_file(self.file, se.MemoryStore(), encoding, 10).encoding, encoding)


    def test_map_form(self):
        plain = os.urandom(5000)
        older, chunks = se.encrypt(plain, 31, 1000)
        newer, others = se.encrypt(plain, 31, 1000, "v1")
        self.assertEqual(chunks[:5], others[:5])
        self.assertNotEqual(older, newer)
        self.assertEqual(se.decrypt(newer, others), plain)
        root = se.get_root_data_map(newer, {c.hash(): c for c in others})
        self.assertEqual(root, se.get_root_data_map(older, {c.hash(): c for c in chunks}))
        self.assertEqual(older.original_file_size() + 1, newer.original_file_size())  # one byte for the version
        self.assertEqual(se.shrink_data_map(root, se.MemoryStore(), "v1").original_file_size(), newer.original_file_size())


class Stores(Case):
    def test_kinds(self):
        disk = se.DiskStore(self.folder / "a" / "chunks")
        for store in se.MemoryStore(), disk:
            data_map = se.streaming_encrypt_from_file(self.file, store)
            self.assertEqual(data_map, self.data_map)
            se.streaming_decrypt_from_storage(data_map, store, self.back)
            self.assertEqual(self.back.read_bytes(), DATA)
            self.assertEqual(se.decrypt(data_map, store), DATA)
        self.assertEqual(se.decrypt(data_map, disk.get), DATA)
        self.assertEqual(se.decrypt(data_map, self.held), DATA)  # a dict
        self.assertEqual(se.decrypt(data_map, {k: bytearray(v) for k, v in self.held.items()}), DATA)
        self.assertEqual(se.decrypt(data_map, dict(zip(self.held, self.chunks))), DATA)
        self.assertEqual(se.decrypt(data_map, self.held.values()), DATA)
        self.assertEqual(sorted(p.name for p in disk.root_dir.iterdir()), sorted(n.hex() for n in self.held))

    def test_disk_mends(self):
        disk = se.DiskStore(self.folder)
        name, content = next(iter(self.held.items()))
        for damage in content[:-1], b"", content[:-1] + b"?", content:
            (self.folder / name.hex()).write_bytes(damage)
            disk.put(name, content)
            self.assertEqual(disk.get(name), content)
        with self.assertRaises(TypeError):
            disk.put(b"../../etc/passwd", content)
        self.assertIsNone(disk.get(bytes(32)))

    def test_calling_thread(self):
        """A store may belong to the thread that uses it, such as a connection of SQLite."""
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE TABLE chunks (name BLOB PRIMARY KEY, data BLOB)")

            def put(name, data):
                db.execute("INSERT INTO chunks VALUES (?, ?)", (name, data))

            def get(name):
                return db.execute("SELECT data FROM chunks WHERE name = ?", (name,)).fetchone()[0]

            self.file.write_bytes(os.urandom(1 << 16))
            data_map = se.streaming_encrypt_from_file(self.file, put, 36, 1 << 12)
            self.assertEqual(se.decrypt(data_map, get), self.file.read_bytes())

    def test_within(self):
        """A store may call the package itself."""

        class Checked(se.MemoryStore):
            def put(self, name, data):
                se.verify_chunk(name, data)
                m, c = se.encrypt(data)
                assert se.decrypt(m, {k.hash(): k for k in c}) == data
                super().put(name, data)

        store = Checked()
        self.assertEqual(se.decrypt(se.streaming_encrypt_from_file(self.file, store), store), DATA)


class ReferencePackage(Case):
    """The functions of the reference implementation's package, whose callbacks get hexadecimal names."""

    def test_files(self):
        chunks = self.folder / "chunks"
        chunks.mkdir()
        data_map, names = se.encrypt_from_file(str(self.file), str(chunks))
        self.assertEqual(sorted(set(names)), sorted(os.listdir(chunks)))
        se.decrypt_from_storage(data_map, str(self.back), lambda name: (chunks / name).read_bytes())
        self.assertEqual(self.back.read_bytes(), DATA)
        self.back.unlink()
        se.streaming_decrypt_from_storage(data_map, str(self.back), lambda want: [(i, (chunks / n).read_bytes()) for i, n in want])
        self.assertEqual(self.back.read_bytes(), DATA)
        with self.assertRaises(se.NoSuchChunk):
            se.streaming_decrypt_from_storage(data_map, str(self.back), lambda want: [])
        with self.assertRaises(OSError):
            se.encrypt_from_file(self.file, self.folder / "none")
        self.assertIs(se.PyDataMap, se.DataMap)


class Errors(Case):
    def decrypt_all(self, get):
        """Returns all calls that read from a store."""
        big, chunks = se.encrypt(os.urandom(5000), chunk_size=1000)  # with one map level
        self.held.update((c.hash(), c.content) for c in chunks)
        yield lambda: se.decrypt(big, get)
        yield lambda: se.get_root_data_map(big, get)
        yield lambda: se.decrypt(self.data_map, get)
        yield lambda: se.streaming_decrypt_from_storage(self.data_map, get, self.back)
        yield lambda: se.decrypt_from_storage(self.data_map, self.back, lambda name: get(bytes.fromhex(name)))
        yield lambda: se.streaming_decrypt_from_storage(self.data_map, self.back, lambda want: [(i, get(bytes.fromhex(n))) for i, n in want])

    def test_what_stores_return(self):
        for get, error in (
            (lambda name: None, se.NoSuchChunk),
            (lambda name: b"", se.ChunkTooSmall),
            (lambda name: self.held[name][:5], se.ChunkTooSmall),
            (lambda name: bytes(1 << 20), se.ChunkTooLarge),
            (lambda name: self.held[name][:-1] + b"?", se.Decryption),
            (lambda name: bytes(64), se.Decryption),
            (lambda name: "text", TypeError),
            (lambda name: 5, TypeError),
            (lambda name: [1, 2], TypeError),
            (lambda: b"", TypeError),
            (lambda name: {}[name], KeyError),
            (lambda name: 1 // 0, ZeroDivisionError),
            (lambda name: exit(3), SystemExit),
        ):
            for call in self.decrypt_all(get):
                with self.assertRaises(error) as caught:
                    call()
                if issubclass(error, se.Error):
                    self.assertRegex(str(caught.exception), "chunk .*chunk")
                    self.assertIsInstance(caught.exception, ValueError)
        self.assertEqual(list(self.folder.iterdir()), [self.file])  # no partial file remains

    def test_exceptions_of_put(self):
        class Full(Exception):
            pass

        count = 0

        def put(name, data):
            nonlocal count
            count += 1
            if count == 2:
                raise Full("no room", name)

        self.file.write_bytes(os.urandom(1 << 16))
        with self.assertRaises(Full) as caught:
            se.streaming_encrypt_from_file(self.file, put, chunk_size=1 << 10)
        self.assertEqual(len(caught.exception.args[1]), 32)
        self.assertEqual(count, 2)  # no callback runs after the error
        self.assertIsNone(caught.exception.__context__)

        async def later(name, data):
            self.held[name] = data

        with self.assertRaisesRegex(TypeError, "asynchronous"):
            se.streaming_encrypt_from_file(self.file, later)
        with self.assertRaises(NotImplementedError):
            se.streaming_encrypt_from_file(self.file, se.ChunkStore())
        with self.assertRaises(NotImplementedError):
            se.decrypt(self.data_map, se.ChunkStore())

    def test_types(self):
        for wrong in None, 5, "text", 1.5, object():
            for call in (
                lambda: se.encrypt(wrong),
                lambda: se.decrypt(wrong, self.chunks),
                lambda: se.decrypt(self.data_map, [wrong]),
                lambda: se.decrypt(self.data_map, wrong),
                lambda: se.streaming_encrypt_from_file(self.file, wrong),
                lambda: se.streaming_decrypt_from_storage(wrong, se.MemoryStore(), self.back),
                lambda: se.shrink_data_map(wrong, se.MemoryStore()),
                lambda: se.shrink_data_map(self.data_map, wrong),
                lambda: se.get_root_data_map(wrong, se.MemoryStore()),
                lambda: se.get_root_data_map(self.data_map, wrong),
                lambda: se.decrypt_from_storage(self.data_map, self.back, wrong),
                lambda: se.XorName(wrong),
                lambda: se.XorName.from_content(wrong),
                lambda: se.EncryptedChunk(wrong),
                lambda: se.verify_chunk(bytes(32), wrong),
                lambda: se.DataMap([wrong]),
                lambda: se.DataMap.from_bytes(wrong),
                lambda: se.ChunkInfo(0, wrong, wrong, 1),
            ):
                self.assertRaises(TypeError, call)
        for wrong in 5, 1.5, [], None:
            for call in (
                lambda: se.DataMap.from_json(wrong),
                lambda: se.streaming_encrypt_from_file(wrong if wrong != 5 else object(), se.MemoryStore()),
                lambda: se.streaming_decrypt_from_storage(self.data_map, se.MemoryStore(), wrong),
                lambda: se.streaming_decrypt_from_storage(self.data_map, "path", wrong),
            ):
                self.assertRaises(TypeError, call)
        for wrong in "36", 36.0, []:
            self.assertRaises(TypeError, se.encrypt, DATA, wrong)
            self.assertRaises(TypeError, se.encrypt, DATA, 36, wrong)
        self.assertRaises(TypeError, se.encrypt, DATA, 31, None, 5)
        self.assertRaises(ValueError, se.encrypt, DATA, 2)
        for encoding, form in (36, "v0c"), (31, "json"), (31, ""), (31, "v1\0"), (31, "\ud800"):
            self.assertRaises(se.Generic, se.encrypt, DATA, encoding, None, form)
        self.assertRaises(ValueError, se.XorName, b"short")

    def test_sizes(self):
        self.assertRaises(se.ChunkTooSmall, se.encrypt, b"ab")
        for size in 0, -1, 64 << 20, 1 << 31, 1 << 70:
            self.assertRaises(se.InvalidChunkSize, se.encrypt, DATA, 31, size)
        self.file.write_bytes(b"ab")
        self.assertRaises(se.ChunkTooSmall, se.streaming_encrypt_from_file, self.file, se.MemoryStore())

    def test_malformed_maps(self):
        for text in "", "{}", "[]", "nonsense", "{", '{"chunk_identifiers": [], "child": null}', "\ud800", '{"\ud800": 1}':
            self.assertRaises(se.Serialisation, se.DataMap.from_json, text)
        good = self.data_map.to_bytes()
        for b in b"", b"x", good[:-2], good + b"x", bytes(len(good)), b"\xff" * len(good):
            self.assertRaises(se.Serialisation, se.DataMap.from_bytes, b)
        infos = self.data_map.infos()
        for bad in infos[:2], infos[::-1], [se.ChunkInfo(0, i.dst_hash, i.src_hash, n) for i, n in zip(infos, (0, -1, 1 << 80))]:
            for call in (
                lambda: se.DataMap(bad).to_bytes(),
                lambda: se.decrypt(se.DataMap(bad), self.chunks),
                lambda: se.decrypt(se.DataMap(bad), self.held),
                lambda: se.shrink_data_map(se.DataMap(bad), se.MemoryStore()),
            ):
                self.assertRaises(se.Serialisation, call)
        for child in 0, -1, 9, 1 << 64:
            self.assertRaises(se.Serialisation, se.DataMap(infos, child).to_bytes)
        self.assertRaises(se.Error, self.data_map.to_bytes, "v2")

    def test_paths(self):
        store = self.held
        none = self.folder / "none" / "file"
        for path, error in (none, FileNotFoundError), (self.folder, IsADirectoryError), ("a\0b", ValueError), (os.fsencode(none), FileNotFoundError):
            self.assertRaises(error, se.streaming_encrypt_from_file, path, se.MemoryStore())
        for path, error in (none, FileNotFoundError), (self.folder, FileExistsError), ("/dev/null", FileExistsError), ("a\0b", ValueError):
            self.assertRaises(error, se.streaming_decrypt_from_storage, self.data_map, store, path)
        self.assertIs(se.Io, OSError)
        self.back.write_bytes(b"an older one")
        se.streaming_decrypt_from_storage(self.data_map, store, self.back)
        self.assertEqual((self.back.read_bytes(), self.back.stat().st_mode & 0o777), (DATA, 0o600))
        os.chdir(self.folder)  # a relative path, and bytes that are not UTF-8
        self.addCleanup(os.chdir, "/")
        se.streaming_decrypt_from_storage(self.data_map, store, b"\xff\xfe")
        self.assertEqual(Path(os.fsdecode(b"\xff\xfe")).read_bytes(), DATA)


if __name__ == "__main__":
    unittest.main()
