#!/usr/bin/env bash
# Runs tests of the rooms that care, and a slice of the end-to-end tests, in the test VM on cgroup v2, which
# usual test hosts lack. Usage: run.sh apparmor|selinux: the kernel's security module; under SELinux the
# disk boots enforcing, and nothing has been made to pass there yet.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
deps=${SALLYPORT_DEPS:-$root/.deps}
vm=${SALLYPORT_VM:-$deps/vm}
"$root/test/vm/build.sh" "$vm"
job=$(mktemp -d /var/tmp/sallyport-job-XXXXXX)
trap 'rm -rf "$job"' EXIT
cd "$root"
mkdir -p "$job"/{bin,tests,deps/bin,deps/cni}
go build -ldflags '-s -w' -o "$job/bin/" ./cmd/sallyportd
CGO_ENABLED=0 go build -ldflags '-s -w' -o "$job/bin/" ./cmd/sallyport-init
for p in sandbox sandbox/stats sandbox/internal/ns test/e2e; do
	go test -c -ldflags '-s -w' -o "$job/tests/${p//\//_}" "./$p"
done
cp -L "$deps/bin/runc" "$job/deps/bin/"
cp -rL "$deps/cni/bin" "$job/deps/cni/"
cp "$root/test/vm/guest/run.sh" "$root/packaging/apparmor/sallyport-default" "$job/"
begin=$SECONDS
status=0
"$root/test/vm/boot.sh" "$vm" "$job" "${1:-apparmor}" || status=$?
echo "vm: took $((SECONDS - begin)) s"
exit $status
