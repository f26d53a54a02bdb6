#!/bin/sh
# Runs on the build machine as mmdebstrap's last hook; $1 is the root of the new system.
set -eu
root=$1

# Unique to each machine: made at its first boot. An empty machine-id keeps systemd from running presets again.
rm -f "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub "$root"/etc/hostname
: > "$root/etc/machine-id"

# The network: cloud-init writes .network files, systemd-networkd and resolved read them.
chroot "$root" systemctl --quiet enable systemd-networkd.service

# Nothing to do in a guest without LVM and with a boot menu that is never shown: 4 s of a first boot under emulation.
chroot "$root" systemctl --quiet disable e2scrub_reap.service grub-common.service
# The generator for SSH over AF_VSOCK loads three drivers at every boot; Proxmox offers guests no vsock.
mkdir -p "$root/etc/systemd/system-generators"
ln -s /dev/null "$root/etc/systemd/system-generators/systemd-ssh-generator"

mkdir -p "$root/boot/efi"

# Left by the build: its own apt sources, path excludes that would bite later installations, logs and caches.
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/0000* "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -f "$root"/var/cache/ldconfig/aux-cache "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
find "$root/var/log" -type f -delete

# Byte code that is checked by time stamp: with SOURCE_DATE_EPOCH set Python would read and hash every source file
# at every import instead. The time stamps come from the packages, so the result is the same in every build.
find "$root/usr" -name '*.pyc' -path '*/__pycache__/*' -delete
chroot "$root" env -u SOURCE_DATE_EPOCH python3 -m compileall -q -j 0 --invalidation-mode timestamp \
    /usr/lib/python3 /usr/lib/python3.13 /usr/share/python3 >/dev/null || true
