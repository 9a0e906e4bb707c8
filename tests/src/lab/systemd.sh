#!/bin/sh
# Boots systemd on a lab's node. $1: its root, a folder. $2: the name of its control group. Runs in a mount namespace and
# the node's network namespace; what it mounts goes with it.
set -e
root=$1

if [ "${3-}" != booted ]; then
  # A control group of its own: systemd takes the one it starts in for the whole machine's.
  mkdir "$root/groups"
  mount -t cgroup2 podlane-lab "$root/groups"
  mkdir "$root/groups/$2"
  echo 0 >"$root/groups/$2/cgroup.procs"
  umount "$root/groups"
  exec unshare --pid --uts --ipc --cgroup --fork --kill-child -- sh "$0" "$root" "$2" booted
fi

mount --bind "$root" "$root"
cd "$root"
mkdir -p usr proc sys dev run tmp var root old
for name in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ]; then cp -P "/$name" .; fi
done
mount --rbind /usr usr
mount --bind "$root/local" usr/local
mount -t proc podlane-lab proc
mount -t sysfs podlane-lab sys
mount -t cgroup2 podlane-lab sys/fs/cgroup
mount -t bpf podlane-lab sys/fs/bpf
mount -t tmpfs -o mode=755 podlane-lab dev
for device in null zero full random urandom tty; do
  : >"dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
ln -s /proc/self/fd dev/fd
: >dev/console
mount --bind "$root/console" dev/console
mount -t tmpfs podlane-lab run
mkdir run/netns
# Namespaces that are named later come here, too: these mounts are the machine's slaves.
mount --rbind /run/netns run/netns
pivot_root . old
umount --lazy old
exec env -i container=podlane-lab PATH=/usr/local/bin:/usr/sbin:/usr/bin /lib/systemd/systemd --unit=podlane.service \
  --log-target=console --show-status=no
