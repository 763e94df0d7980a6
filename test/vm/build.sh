#!/usr/bin/env bash
# Builds the disk of the test VM from Debian packages: Debian 12's kernel and systemd on cgroup v2, SELinux
# with a container module and AppArmor, of which the boot arguments choose one. It has no network and no
# users. Usage: build.sh DIR; does nothing where DIR holds the same already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
packages=(qemu-system-x86 seabios mmdebstrap selinux-policy-dev selinux-policy-src policycoreutils checkpolicy
	semodule-utils m4 make zstd cpio busybox-static e2fsprogs)
guest=systemd,systemd-sysv,udev,dbus,kmod,conmon,crun,nftables,iptables,iproute2,policycoreutils,selinux-policy-default,selinux-utils,apparmor,procps,libseccomp2,busybox-static,ca-certificates

missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if ((${#missing[@]})); then
	[ "$(id -u)" = 0 ] || { echo "vm: need root to install: ${missing[*]}" >&2; exit 1; }
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-6/{print $2; exit}')
version=${kernel#linux-image-}
stamp="$version $(cat "$here"/build.sh "$here"/guest/{init,job,sallyport*} | sha256sum | cut -c1-16)"
[ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
echo "vm: building the disk with $kernel"
rm -f "$out/stamp"
work=$(mktemp -d /var/tmp/sallyport-vm-XXXXXX)
trap 'umount "$work/t" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

chmod 0755 "$work"
apt-get download "$kernel" >/dev/null 2>&1
dpkg-deb -x "${kernel}"_*.deb kernel
mkdir t && mount -t tmpfs -o size=2500m tmpfs t
TMPDIR=$work/t mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--include=$guest bookworm t/root >mmdebstrap.log 2>&1 || { tail -20 mmdebstrap.log >&2; exit 1; }
root=t/root
cp -a kernel/lib/modules "$root/lib/"
chroot "$root" depmod "$version"

# selinux-policy-default has no container module; the policy's source package does.
mkdir policy
tar -C policy --zstd -xf /usr/src/selinux-policy-src.tar.zst --wildcards '*/services/container.te' '*/services/container.fc'
(cd policy && find . -mindepth 2 -name 'container.[tf][ec]' -exec cp {} . \; && make -s -f /usr/share/selinux/devel/Makefile container.pp >make.log 2>&1) || { tail policy/make.log >&2; exit 1; }
cp policy/container.pp "$here/guest/sallyport.cil" "$root/root/"
chroot "$root" semodule -i /root/container.pp /root/sallyport.cil 2>semodule.log || { tail semodule.log >&2; exit 1; }
rm "$root/root/container.pp" "$root/root/sallyport.cil"
sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$root/etc/selinux/config"

install -m 0755 "$here/guest/job" "$root/sbin/sallyport-job"
install -m 0644 -t "$root/etc/systemd/system" "$here/guest/sallyport-job.service" "$here/guest/sallyport-vm.target"
printf '%s\n' overlay veth bridge br_netfilter nf_tables >"$root/etc/modules-load.d/vm.conf"
echo '/dev/vda / ext4 rw 0 0' >"$root/etc/fstab"
setfiles -q -r "$root" "$root/etc/selinux/default/contexts/files/file_contexts" "$root" 2>/dev/null || true
truncate -s 1400M "$out/root.img.new"
mke2fs -q -F -t ext4 -O ^has_journal -d "$root" "$out/root.img.new"
mv "$out/root.img.new" "$out/root.img"

mkdir -p first/{bin,proc,sys,dev,root,m}
cp "$root/bin/busybox" first/bin/
install -m 0755 "$here/guest/init" first/init
for m in virtio/virtio virtio/virtio_ring virtio/virtio_pci_legacy_dev virtio/virtio_pci_modern_dev virtio/virtio_pci block/virtio_blk; do
	cp "kernel/lib/modules/$version/kernel/drivers/$m.ko" first/m/
done
(cd first && find . | cpio -o -H newc 2>/dev/null | gzip) >"$out/initrd"
cp kernel/boot/vmlinuz-* "$out/vmlinuz"
echo "$stamp" >"$out/stamp"
