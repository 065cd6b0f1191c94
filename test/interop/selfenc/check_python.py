"""Tests python/selfenc.py, and exchanges data with the reference's Python package both ways."""

import os
import random
import sys
import tempfile

import selfenc as ours
import self_encryption as theirs

seed = random.randrange(2**64)
print("seed", seed)
rng = random.Random(seed)


def data(n):
    """Random bytes of random compressibility."""
    out = b""
    while len(out) < n:
        out += rng.choice([rng.randbytes, lambda k: b"text " * (k // 5 + 1)])(rng.randint(1, n))
    return out[:n]


def reader(folder):
    def get(name):
        with open(os.path.join(folder, name), "rb") as f:
            return f.read()

    return get


def refuses(kind, function, *args):
    try:
        function(*args)
    except kind as e:
        return str(e)
    sys.exit(f"{function.__name__} did not refuse")


def in_memory(plain):
    data_map, chunks = ours.encrypt(plain)
    assert ours.decrypt(data_map, chunks) == plain
    rng.shuffle(chunks)
    assert ours.decrypt(data_map, chunks) == plain
    assert {c.hash() for c in chunks} >= {i.dst_hash.as_bytes() for i in data_map.infos()}
    for form in "v1", "json":
        assert ours.DataMap.from_bytes(data_map.to_bytes(form)) == data_map
    assert ours.DataMap.from_json(data_map.to_json()) == data_map
    assert data_map.len() == len(data_map) == 3 and data_map.is_child() == (len(chunks) > 3)
    chunks[0].content = chunks[0].content[:-1] + bytes([chunks[0].content[-1] ^ 1])
    assert "no such chunk" in refuses(ValueError, ours.decrypt, data_map, chunks)


def through_files(plain, folder):
    source, back = os.path.join(folder, "source"), os.path.join(folder, "back")
    with open(source, "wb") as f:
        f.write(plain)

    def same():
        with open(back, "rb") as f:
            assert f.read() == plain
        os.remove(back)

    for writer, other in (ours, theirs), (theirs, ours), (ours, ours):
        store = tempfile.mkdtemp(dir=folder)
        data_map, names = writer.encrypt_from_file(source, store)
        assert sorted(set(names)) == sorted(os.listdir(store))
        foreign = other.DataMap.from_json(data_map.to_json())
        other.decrypt_from_storage(foreign, back, reader(store))
        same()
        other.streaming_decrypt_from_storage(foreign, back, lambda want: [(i, reader(store)(n)) for i, n in want])
        same()
        assert [(i.index, bytes(i.dst_hash.as_bytes()), i.src_size) for i in foreign.infos()] == [
            (i.index, bytes(i.dst_hash.as_bytes()), i.src_size) for i in data_map.infos()
        ]


def errors(folder):
    assert "at least 3 bytes" in refuses(ValueError, ours.encrypt, b"ab")
    refuses(ValueError, ours.DataMap.from_json, "{}")
    refuses(ValueError, ours.DataMap.from_bytes, b"")
    refuses(OSError, ours.encrypt_from_file, os.path.join(folder, "none"), folder)
    source = os.path.join(folder, "source")
    with open(source, "wb") as f:
        f.write(b"some text")
    refuses(OSError, ours.encrypt_from_file, source, os.path.join(folder, "none"))
    data_map, _ = ours.encrypt(b"some text")
    back = os.path.join(folder, "back")
    refuses(KeyError, ours.decrypt_from_storage, data_map, back, lambda name: {}[name])
    assert "corrupt" in refuses(ValueError, ours.decrypt_from_storage, data_map, back, lambda name: b"x" * 40)
    assert "no such chunk" in refuses(ValueError, ours.decrypt_from_storage, data_map, back, lambda name: None)
    assert not os.path.exists(back)


assert ours.XorName.from_content(b"abc").as_bytes() == bytes(theirs.XorName.from_content(b"abc").as_bytes())
for size in [3, 4, 5, 100, 70_000, 3 * 4190208 + 1] + [rng.randint(3, 10**6) for _ in range(4)]:
    plain = data(size)
    in_memory(plain)
    with tempfile.TemporaryDirectory() as folder:
        through_files(plain, folder)
with tempfile.TemporaryDirectory() as folder:
    errors(folder)
print("ok")
