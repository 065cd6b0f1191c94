#!/usr/bin/env python3
"""Recomputes testdata/headers.json, and headers that Go wrote, from docs/format.md alone.

With --write it makes headers.json anew out of the key slots of pkg/crypto/testdata/vectors.json.
Arguments: more files of the same shape.
"""
import hashlib, hmac, json, os, struct, sys
HERE = os.path.dirname(os.path.abspath(__file__))
CRYPTO = os.path.normpath(os.path.join(HERE, "../../../../crypto/testdata"))
sys.path.insert(0, CRYPTO)
import check  # the key schedule


def area(v):
    head = b"\x89SEALVOL" + struct.pack("<II", 2, 4096)
    head += struct.pack("<QQQ", v.get("compat", 0), v.get("ro_compat", 0), 0)
    head += bytes.fromhex(v["uuid"]) + struct.pack("<QB", v["sequence"], v["suite"])
    slots = [bytes(3072)] * 16
    for s in v["slots"]:
        params, sealed = bytes.fromhex(s["params"]), bytes.fromhex(s["sealed"])
        b = struct.pack("<BxHHxx", s["type"], len(params), len(sealed))
        slots[s["index"]] = (b + params.ljust(2560, b"\0") + sealed).ljust(3072, b"\0")
    b = head.ljust(4096, b"\0") + b"".join(slots)
    b = b.ljust(65536 - 64, b"\0")
    key = check.keys({"uuid": v["uuid"], "vmk": v["newest_vmk"], "suite": v["suite"]})["K_header"]
    b += hmac.new(key, b, hashlib.sha256).digest()
    return b + hashlib.sha256(b).digest()


def outputs(v):
    b = area(v)
    return {"mac": b[-64:-32].hex(), "checksum": b[-32:].hex(), "area_sha256": hashlib.sha256(b).hexdigest()}


def write():
    with open(os.path.join(CRYPTO, "vectors.json")) as f:
        cases = json.load(f)["key_slots"]
    out = []
    for n, c in enumerate(cases):
        i = c["in"]
        v = {"name": c["name"], "uuid": i["uuid"], "newest_vmk": i["epochs"][-1][1], "newest_epoch": i["epochs"][-1][0],
             "suite": i["suite"], "sequence": n + 1, "compat": n << 40,
             "slots": [{"index": i["slot"], "type": i["type"], "params": i["params"], "sealed": c["out"]["slot_bytes"]}]}
        v.update(outputs(v))
        out.append(v)
    with open(os.path.join(HERE, "headers.json"), "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")


def main():
    if sys.argv[1:] == ["--write"]:
        return write()
    good = 0
    for path in [os.path.join(HERE, "headers.json")] + sys.argv[1:]:
        with open(path) as f:
            for v in json.load(f):
                want = outputs(v)
                if {k: v[k] for k in want} != want:
                    sys.exit("%s: %s differs" % (path, v["name"]))
                good += 1
    print("%d headers agree" % good)


if __name__ == "__main__":
    main()
