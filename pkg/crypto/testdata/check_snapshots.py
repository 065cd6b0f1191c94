#!/usr/bin/env python3
"""Recomputes every vector of snapshots.json from its inputs: what a tenant secret gives besides chunks.

Written from docs/snapshot-format.md, section "Keys", alone; primitives are check.py's. With --write it writes the file
anew from the inputs.
"""
import json, os, sys
import check
from check import X, aead, extract, mac, seal, slot_bytes, u8, u32

HERE = os.path.dirname(os.path.abspath(__file__))


def C(i): return extract(b"doublecrypt-v2 conv", bytes.fromhex(i["tenant_secret"]))


def tenant(i): return {"C": C(i), "fingerprint": X(C(i), "tenant-fp")[:16], "cut": X(C(i), "cut")[:16]}


def xor(a, b): return bytes(x ^ y for x, y in zip(a, b, strict=True))


def pack_slot(i):
    snap, clear, d, p = (bytes.fromhex(i[k]) for k in ("snapshot_uuid", "clear", "d", "p"))
    at = i["slot"].to_bytes(2, "little") + bytes.fromhex(i["header"])
    mask_p = mac(X(C(i), "slot-p", snap), at)
    mask = mac(X(C(i), "slot", snap), at + clear + p)[:16]
    return {"mask_p": mask_p, "mask": mask, "hidden": xor(p, mask_p) + xor(d[:16], mask)}


def record(i):
    s, snap, nonce = u8(i["suite"]), bytes.fromhex(i["snapshot_uuid"]), bytes.fromhex(i["nonce"])
    aad = {"card": b"DCv2K"}[i["label"]] + s + snap
    key = X(C(i), i["label"], s + snap)
    return {"key": key, "aad": aad, "sealed": nonce + seal(i["suite"], key, nonce, aad, check.data(i["body"]))}


def secret_slot(i):
    secret, fp = bytes.fromhex(i["tenant_secret"]), tenant(i)["fingerprint"]
    commit = X(extract(b"doublecrypt-v2 tenant" + fp, secret), "commit")
    out = slot_bytes(i, fp, [u32(0) + secret + commit])
    return {"fingerprint": fp, "commit": commit, "slot_bytes": out["slot_bytes"]}


KINDS = {"tenants": tenant, "pack_slots": pack_slot, "records": record, "tenant_slots": secret_slot}


def show(v): return v.hex()


def inputs():
    seq = lambda start, n: bytes((start + k) % 256 for k in range(n)).hex()
    secrets = {"a": seq(0, 32), "b": seq(0x80, 32)}
    cases = {k: [] for k in KINDS}
    for n, secret in secrets.items():
        cases["tenants"].append(("secret-" + n, {"tenant_secret": secret}))
        for slot in (0, 1, 4095):
            for comp, p in ((0, seq(0xc0, 32)), (1, seq(0xe0, 32))):
                cases["pack_slots"].append(("%s-%d-comp-%d" % (n, slot, comp), {
                    "tenant_secret": secret, "snapshot_uuid": seq(0x10, 16), "header": seq(3, 32), "slot": slot,
                    "clear": "2000000010000000" + "01%02x0100" % comp, "d": seq(0xc0, 32), "p": p}))
        for suite in (1, 2):
            for label in ("card",):
                for body in ({"hex": ""}, {"mod251": 300}):
                    cases["records"].append(("%s-%s-suite-%d-%d" % (label, n, suite, len(check.data(body))), {
                        "tenant_secret": secret, "suite": suite, "label": label, "snapshot_uuid": seq(0x10, 16),
                        "nonce": seq(0x40, 24), "body": body}))
            cases["tenant_slots"].append(("suite-%d-%s" % (suite, n), {
                "tenant_secret": secret, "suite": suite, "slot": 2, "type": 1, "params": "", "kek": seq(0x20, 32),
                "salt": seq(0x60, 32)}))
    return cases


def write(path):
    doc = {"format": 1, "about": "What a tenant secret gives besides chunks; docs/snapshot-format.md defines it."}
    for kind, cases in inputs().items():
        doc[kind] = [{"name": n, "in": i, "out": {k: show(v) for k, v in KINDS[kind](i).items()}} for n, i in cases]
    with open(path, "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")


def main():
    args = [a for a in sys.argv[1:] if a != "--write"]
    path = args[0] if args else os.path.join(HERE, "snapshots.json")
    check.primitives()
    if "--write" in sys.argv:
        return write(path)
    with open(path) as f:
        doc = json.load(f)
    good = bad = 0
    if set(doc) - {"format", "about"} != set(KINDS):
        sys.exit("groups differ: %s" % sorted(set(doc) ^ set(KINDS)))
    for kind, run in KINDS.items():
        if not doc[kind]:
            sys.exit("no case of %s" % kind)
        for case in doc[kind]:
            got = {k: show(v) for k, v in run(case["in"]).items()}
            for field in sorted(set(got) | set(case["out"])):
                if got.get(field) == case["out"].get(field):
                    good += 1
                else:
                    bad += 1
                    print("MISMATCH %s/%s.%s\n  want %s\n  got  %s" % (
                        kind, case["name"], field, case["out"].get(field), got.get(field)))
    print("%d fields agree, %d differ; %d tampered inputs refused" % (good, bad, check.tampered))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
