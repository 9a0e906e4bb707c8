#!/bin/sh
# The image's files: rootfs.sh BINARIES FOLDER, where BINARIES holds podlane and podlane-cni.
# Beside them there is only nft, which masquerades, with the libraries that it needs: no shell, no package manager.
set -eu
binaries=$1
root=$2

rm -rf "$root"
# Mount points have to be there: the container's root is read-only.
mkdir -p "$root/usr/local/bin" "$root/usr/sbin" "$root/etc/podlane" "$root/etc/cni/net.d" "$root/opt/cni/bin" \
    "$root/host/proc/sys/net" "$root/run/podlane" "$root/run/netns" "$root/sys" "$root/proc" "$root/dev" "$root/tmp" \
    "$root/var"
# Runtimes name pods' network namespaces by either path.
ln -s ../run "$root/var/run"
echo 'root:x:0:0:root:/:/sbin/nologin' >"$root/etc/passwd"
install -m 755 "$binaries/podlane" "$binaries/podlane-cni" "$root/usr/local/bin/"
install -m 755 "$(command -v nft)" "$root/usr/sbin/nft"
for program in "$root"/usr/local/bin/* "$root/usr/sbin/nft"; do
    # Nothing, where it is static.
    (ldd "$program" 2>/dev/null || true) | grep -o '/[^ ]*' | while read -r library; do
        install -D -m 755 "$(readlink -f "$library")" "$root$library"
    done
done
