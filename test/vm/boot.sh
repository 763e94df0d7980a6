#!/usr/bin/env bash
# Boots the test VM with one security module and runs DIR/run.sh in it, from a disk made of DIR. What it
# prints is the guest's console; the exit code is run.sh's. Usage: boot.sh VM DIR selinux|apparmor.
# Without KVM it is emulated, which takes 10 to 20 times as long.
set -euo pipefail
vm=${1:?usage: boot.sh VM DIR selinux|apparmor} dir=${2:?} lsm=${3:?}
limit=${VM_TIMEOUT:-1500} # seconds
case $lsm in
selinux) args="lsm=landlock,yama,integrity,selinux,bpf enforcing=1" ;;
apparmor) args="lsm=landlock,yama,integrity,apparmor,bpf apparmor=1" ;;
*) echo "vm: $lsm is neither selinux nor apparmor" >&2; exit 2 ;;
esac
work=$(mktemp -d /var/tmp/sallyport-vm-XXXXXX)
trap 'rm -rf "$work"' EXIT
truncate -s $(($(du -sm "$dir" | cut -f1) * 11 / 10 + 64))M "$work/job.img"
mke2fs -q -F -t ext4 -O ^has_journal -d "$dir" "$work/job.img"
accel=tcg,thread=multi
if [ "${VM_KVM:-}" = 1 ]; then accel=kvm; fi
timeout $((limit + 120)) qemu-system-x86_64 -accel $accel -cpu max -m 3072 -smp 2 -machine q35 -nographic -nodefaults -no-reboot \
	-serial stdio -kernel "$vm/vmlinuz" -initrd "$vm/initrd" \
	-drive file="$vm/root.img",format=raw,if=none,id=d0,snapshot=on -device virtio-blk-pci,drive=d0 \
	-drive file="$work/job.img",format=raw,if=none,id=d1,readonly=on -device virtio-blk-pci,drive=d1 \
	-append "console=ttyS0 root=/dev/vda systemd.unit=sallyport-vm.target quiet panic=-1 vmtimeout=$limit $args" </dev/null |
	tr -d '\r' | tee "$work/console"
code=$(sed -n 's/^VM: exit \([0-9]*\)$/\1/p' "$work/console" | tail -1)
[ -n "$code" ] || { echo "vm: the guest did not end by itself" >&2; exit 1; }
exit "$code"
