#!/bin/sh
# Removes everything the lab $1 made, and nothing else. With `guard` as $2, first waits for its owner to die:
# the owner holds the other end of standard input, which the kernel closes whatever ended it.
# The lab's own Drop, its guard, the sweep of stale labs and `cargo xtask demo --remove` all come here.
set -u
id=$1
dir=/run/podlane-lab/$id

if [ "${2-}" = guard ]; then
  cat >/dev/null
  [ -e "$dir/kept" ] && exit 0
fi

# The lock goes last: without it there is nothing but the folder.
remove_folder() {
  rm -rf --one-file-system "$dir"
  exit
}

# One at a time: the owner lets go of the lock before it asks, a stale lab's is free.
[ -e "$dir/lock" ] || remove_folder
command exec 9<"$dir/lock" || remove_folder
flock 9
[ -e "$dir/lock" ] || remove_folder

namespaces=$(ip netns list | sed -n "s/^\(pl$id-[^ ]*\).*/\1/p")

# A process may start another while it is killed, so look again until there is none.
for _ in 1 2 3 4 5 6 7 8 9 10; do
  pids=$(for namespace in $namespaces; do ip netns pids "$namespace"; done 2>/dev/null)
  [ -n "$pids" ] || break
  kill -9 $pids 2>/dev/null
  sleep 0.02
done

# Every pod has programs, and the kernel detaches each after an RCU grace period, during which nobody else on this machine
# can change a device.
expedited=/sys/kernel/rcu_expedited
if [ "$(cat $expedited)" = 0 ]; then
  echo 1 >$expedited
  trap 'sleep 0.5; echo 0 >$expedited' EXIT
fi

# systemd's control groups (see systemd.sh), by a mount that nobody else sees.
for namespace in $namespaces; do
  [ -x /lib/systemd/systemd ] && unshare --mount sh -c '
    mount -t cgroup2 podlane-lab "$0" || exit
    [ -d "$0/$1" ] || exit 0
    for try in 1 2 3 4 5 6 7 8 9 10; do
      find "$0/$1" -depth -type d -exec rmdir {} + && exit
      sleep 0.02
    done' "$dir" "$namespace"
done

for namespace in $namespaces; do
  echo "netns delete $namespace"
done | ip -force -batch -

# Pinned programs and maps go with their file system.
while read -r _ mount _; do
  case $mount in
    "$dir"/*) umount -l "$mount" ;;
  esac
done </proc/mounts

find "$dir" -xdev -mindepth 1 ! -path "$dir/lock" -delete
remove_folder
