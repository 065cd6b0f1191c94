"""Exchanges data between our Python package and the reference's, which have the same name, both ways.

usage: check_python.py DIRECTORY ENCODING FORM: where our package is installed, and what the reference's release reads.
"""

import importlib.util
import os
import random
import sys
import tempfile

import self_encryption as theirs

place, encoding, form = os.path.join(sys.argv[1], "self_encryption"), int(sys.argv[2]), sys.argv[3]
spec = importlib.util.spec_from_file_location("ours", os.path.join(place, "__init__.py"), submodule_search_locations=[place])
sys.modules["ours"] = ours = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ours)
assert ours.__file__ != theirs.__file__
ours.set_default_encoding(encoding)

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


def fields(data_map):
    return [(i.index, bytes(i.dst_hash.as_bytes()), bytes(i.src_hash.as_bytes()), i.src_size) for i in data_map.infos()]


def in_memory(plain):
    """One describes the chunks that the other made."""
    for writer, other in (ours, theirs), (theirs, ours):
        data_map, chunks = writer.encrypt(plain)
        assert bytes(writer.decrypt(data_map, chunks)) == plain
        assert bytes(other.decrypt(other.DataMap.from_json(data_map.to_json()), other.encrypt(plain)[1])) == plain
        assert [bytes(c.hash()) for c in chunks[:3]] == [bytes(c.hash()) for c in other.encrypt(plain)[1][:3]]


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
        how = {"map_form": form} if writer is ours else {}
        data_map, names = writer.encrypt_from_file(source, store, **how)
        assert sorted(set(names)) == sorted(os.listdir(store))
        foreign = other.DataMap.from_json(data_map.to_json())
        assert fields(foreign) == fields(data_map)
        assert (foreign.child(), foreign.len(), foreign.is_child()) == (data_map.child(), data_map.len(), data_map.is_child())
        other.decrypt_from_storage(foreign, back, reader(store))
        same()
        other.streaming_decrypt_from_storage(foreign, back, lambda want: [(i, reader(store)(n)) for i, n in want])
        same()


def page(plain, folder):
    """What our calls of the page put on a disk is read by the reference's package."""
    source, back = os.path.join(folder, "source"), os.path.join(folder, "back")
    store = ours.DiskStore(os.path.join(folder, "chunks"))
    data_map = ours.streaming_encrypt_from_file(source, store, map_form=form)
    for m in data_map, ours.get_root_data_map(data_map, store):
        theirs.decrypt_from_storage(theirs.DataMap.from_json(m.to_json()), back, reader(store.root_dir))
        with open(back, "rb") as f:
            assert f.read() == plain
        os.remove(back)


assert ours.XorName.from_content(b"abc").as_bytes() == bytes(theirs.XorName.from_content(b"abc").as_bytes())
limit = ours.max_chunk_size()
in_memory(rng.randbytes(1000))
for size in [3, 4, 5, 100, 70_000, 3 * limit - 1, 3 * limit + 1] + [rng.randint(3, 10**6) for _ in range(4)]:
    plain = data(size)
    with tempfile.TemporaryDirectory() as folder:
        through_files(plain, folder)
        page(plain, folder)
print("ok")
