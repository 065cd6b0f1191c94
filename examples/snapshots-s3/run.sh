#!/usr/bin/env bash
# Stores snapshots of a volume in S3, loses the volume, and restores it. The S3 server is versitygw on
# this machine's loopback; for another one, take the URL below and its credentials.
#
#   make build build/bin/versitygw
#   examples/snapshots-s3/run.sh
#
# It needs root, or FUSE for users, to mount the volume. Everything is in a temporary directory below
# build/, and goes at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."
sealvol=$PWD/bin/sealvol
gateway=$PWD/build/bin/versitygw
port=${PORT:-7070}

mkdir -p build
work=$(mktemp -d build/snapshots-s3-XXXXXX) # not /tmp: the gateway needs extended attributes
cd "$work"
mkdir buckets buckets/backups mnt
clean() {
	"$sealvol" umount mnt 2>/dev/null || true
	[ -z "${server:-}" ] || kill "$server" 2>/dev/null || true
	cd .. && rm -rf "$(basename "$work")"
}
trap clean EXIT

# Nothing leaves this machine: an endpoint, credentials, and no metadata service.
export AWS_ACCESS_KEY_ID=example AWS_SECRET_ACCESS_KEY=example-secret AWS_EC2_METADATA_DISABLED=true
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
ROOT_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID ROOT_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY \
	"$gateway" --port "127.0.0.1:$port" --quiet posix buckets &
server=$!
for _ in $(seq 100); do
	kill -0 "$server" # it has ended: the port is in use
	(: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
	sleep 0.1
done

# The store of the snapshots, and three secrets: one opens the volume, all snapshots depend on the
# second, and the third is a recovery key that replaces both. Keep it offline.
store="s3://backups/shop?region=us-east-1&endpoint=http://127.0.0.1:$port&path-style=true"
"$sealvol" key generate vol.key
"$sealvol" key generate tenant.key
"$sealvol" key generate --recovery rescue.key >rescue.pub
"$sealvol" snapshot init --store "$store" --tenant-file tenant.key --recipient rescue.pub

# A volume with some files.
"$sealvol" mkfs --key-file vol.key --size 1GiB vol.img
"$sealvol" key add --key-file vol.key --recipient rescue.pub vol.img
"$sealvol" mount --key-file vol.key vol.img mnt
cp -r ../../docs mnt/
dd if=/dev/urandom of=mnt/data bs=1M count=32 status=none

# The first snapshot reads everything. The second one reads what changed.
stored() { "$sealvol" snapshot "$1" --store "$store" --tenant-file tenant.key --key-file vol.key "${@:2}"; }
stored create mnt monday
echo "changed on Tuesday" >mnt/docs/note.txt
stored create mnt tuesday
stored list
(cd mnt && find . -type f -exec sha256sum {} +) | sort >before

# The volume is lost, and so are its key and the tenant secret. The store and the recovery key are
# enough to restore it, with a new key.
"$sealvol" umount mnt
rm vol.img vol.key tenant.key
"$sealvol" key generate new.key
"$sealvol" snapshot restore --store "$store" --recovery-key-file rescue.key \
	--new-key-file new.key --recipient rescue.pub --size 2GiB tuesday new.img
"$sealvol" mount --key-file new.key new.img mnt
(cd mnt && find . -type f -exec sha256sum {} +) | sort >after
cmp before after
echo "All $(wc -l <after) files are as they were on Tuesday."
