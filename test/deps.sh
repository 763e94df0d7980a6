#!/usr/bin/env bash
# Installs what Sallyport runs on: Debian packages, and into $SALLYPORT_DEPS runc, gVisor's runsc, the CNI
# plugins and the test registry, built from their Go modules. Versions are pinned here and nowhere else. Debian's
# own runc (1.1.5) is exploitable, so it is not used. Does nothing where all is in place.
# "test/deps.sh sigstore" builds a sigstore for "make e2e-sigstore" into $SALLYPORT_DEPS/sigstore instead, which
# takes some minutes the first time.
set -euo pipefail
deps=${SALLYPORT_DEPS:-$(cd "$(dirname "$0")/.." && pwd)/.deps}
runc=v1.5.2 plugins=v1.9.1 registry=v3.1.2 runsc=v0.0.0-20260905035102-160fafc42237
fulcio=v1.8.8 rekor=v2.3.0 timestamp=v2.1.3 cosign=v3.1.3
packages=(gcc libc6-dev pkg-config libseccomp-dev conmon crun iptables nftables iproute2 busybox-static e2fsprogs strace)

missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if ((${#missing[@]})); then
	[ "$(id -u)" = 0 ] || { echo "deps: need root to install: ${missing[*]}" >&2; exit 1; }
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

mkdir -p "$deps/bin" "$deps/cni/bin"
# install MODULE VERSION DIR [go install arguments...]: builds into DIR unless that version is there.
install() {
	local module=$1 version=$2 dir=$3; shift 3
	local name; name=$(basename "$module")
	[ -x "$dir/$name" ] && [ "$(cat "$dir/.$name.version" 2>/dev/null)" = "$version" ] && return
	echo "deps: building $name $version"
	GOFLAGS=-buildvcs=false GOBIN=$dir go install -trimpath "$@" "$module@$version"
	echo "$version" >"$dir/.$name.version"
}
if [ "${1:-}" = sigstore ]; then
	dir=$deps/sigstore/bin
	mkdir -p "$dir"
	CGO_ENABLED=0 install github.com/sigstore/fulcio $fulcio "$dir"
	CGO_ENABLED=0 install github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix $rekor "$dir"
	CGO_ENABLED=0 install github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server $timestamp "$dir"
	CGO_ENABLED=0 install github.com/sigstore/cosign/v3/cmd/cosign $cosign "$dir"
	exit
fi
CGO_ENABLED=1 install github.com/opencontainers/runc $runc "$deps/bin" -tags seccomp
# runsc names its releases by day; its module's versions carry the same day.
CGO_ENABLED=0 install gvisor.dev/gvisor/runsc $runsc "$deps/bin" -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=release-$(cut -d- -f2 <<<"$runsc" | cut -c1-8).0"
CGO_ENABLED=0 install github.com/distribution/distribution/v3/cmd/registry $registry "$deps/bin"
for p in main/bridge main/loopback ipam/host-local meta/portmap meta/firewall meta/tuning; do
	CGO_ENABLED=0 install github.com/containernetworking/plugins/plugins/$p $plugins "$deps/cni/bin"
done
