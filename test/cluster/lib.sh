# Sourced by the scripts here: settings, and what several of them do.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/versions.env"

# cluster_nodes: two where the machine carries them.
cluster_nodes() { awk '$1 == "MemTotal:" {print ($2 >= 6 * 1000 * 1000) ? 2 : 1}' /proc/meminfo; }

: "${CLUSTER_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/cluster}" # builds and images; may be kept for ever
: "${CLUSTER_NAME:=cluster}"                                  # names the nodes, their network namespaces and cgroups
: "${CLUSTER_NODES:=$(cluster_nodes)}"                        # 1 or 2
: "${CLUSTER_STATE:=$CLUSTER_CACHE/state/$CLUSTER_NAME}"      # of one run of the cluster; removed by down
: "${CLUSTER_SUBNET:=10.231.0}"                               # .1 is the host, .2 the first node, .5 and .6 the link to the second
bin=$CLUSTER_CACHE/bin
images=$CLUSTER_CACHE/images
server=$CLUSTER_SUBNET.2 # where the API server is

die() { echo "$(basename "$0"): $*" >&2; exit 1; }
say() { printf '[%4ds] %s\n' $SECONDS "$*"; }

# node_name N, node_ip N, node_dir N: of the first or second node.
node_name() { echo "$CLUSTER_NAME-$1"; }
node_ip() { [ "$1" = 1 ] && echo "$CLUSTER_SUBNET.2" || echo "$CLUSTER_SUBNET.6"; }
node_dir() { echo "$CLUSTER_STATE/nodes/$1"; }

# running_nodes: the numbers of the nodes whose first process is alive.
running_nodes() {
	local d
	for d in "$CLUSTER_STATE"/nodes/*/; do
		if [ -s "$d/node.pid" ] && kill -0 "$(cat "$d/node.pid")" 2>/dev/null; then basename "$d"; fi
	done
}

# running: are all nodes alive?
running() { [ "$(running_nodes | wc -l)" = "$CLUSTER_NODES" ]; }

# in_node N CMD...: runs a command in a node's namespaces.
in_node() {
	local pid
	pid=$(cat "$(node_dir "$1")/node.pid")
	shift
	nsenter -t "$pid" -m -p -n -u -i -- "$@"
}

kubectl() { KUBECONFIG=$CLUSTER_STATE/kubeconfig "$bin/kubectl" "$@"; }

# until_ok SECONDS CMD...: repeats a command until it succeeds.
until_ok() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}

# cgroups: the directories in which the nodes' cgroups are, one per hierarchy.
cgroups() {
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
		echo /sys/fs/cgroup
	else
		awk '$3 == "cgroup" {print $2}' /proc/self/mounts
	fi
}

# compile FLAGS... PACKAGES...: builds programs into $bin.
compile() { nice go build -v -trimpath -buildvcs=false -o "$bin/" "$@" 2>&1 | counted; }

# counted turns the names of compiled packages into a line now and then, and lets all else through.
counted() { awk '/^[A-Za-z0-9_.~\/-]+$/ {if (++n % 250 == 0) {print "        " n " packages compiled"; fflush()}; next} {print; fflush()}'; }

strip="-s -w"

# mkimage: the project's own maker of images.
mkimage() { "$bin/image" "$@"; }

# busybox_files: what an image needs to be busybox, in the array `base`.
busybox_files() {
	local busybox a
	busybox=$(command -v busybox)
	printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$1/.passwd"
	printf 'root:x:0:\nnobody:x:65534:\n' >"$1/.group"
	base=("$busybox=/bin/busybox" "$1/.passwd=/etc/passwd" "$1/.group=/etc/group" =/tmp =/var/tmp =/root)
	for a in $("$busybox" --list); do
		[ "$a" = busybox ] || base+=("@busybox=/bin/$a")
	done
}
