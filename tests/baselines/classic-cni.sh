#!/bin/sh
# The classic pod network's CNI plugin, as written by hand: a veth pair per pod on the node's bridge.
# The node itself has been set up before: a bridge with the gateway address, ip_forward, a route per peer node.
# Configuration: bridge, gateway, prefixLength, dataDir (one file per address in use, its content is the owner).
set -eu

config=$(cat)
setting() {
  printf %s "$config" | sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"
}

fail() { # code message
  printf '{"cniVersion":"1.0.0","code":%s,"msg":"%s"}\n' "$1" "$2"
  exit 1
}

# Takes the first free address of the gateway's /24, or what is left of a smaller one.
take_address() {
  last=$((${gateway##*.} - 1 + (1 << (prefix < 24 ? 8 : 32 - prefix)) - 2))
  host=$((${gateway##*.} + 1))
  while [ "$host" -le "$last" ]; do
    address=${gateway%.*}.$host
    # noclobber makes the file's creation the atomic step
    if (set -C && echo "$owner" >"$data/$address") 2>/dev/null; then
      return
    fi
    host=$((host + 1))
  done
  fail 100 "no free address beside $gateway/$prefix"
}

release_address() {
  grep -lx "$owner" "$data"/* 2>/dev/null | xargs -r rm -f
}

add() {
  # Entering a namespace by its path: `ip` wants a name.
  pod=${CNI_NETNS##*/}
  take_address
  trap 'ip link delete "$host_device" 2>/dev/null; release_address' EXIT
  ip link add "$host_device" type veth peer name "$CNI_IFNAME" netns "$pod"
  ip link set "$host_device" master "$bridge" up
  ip -n "$pod" address add "$address/$prefix" dev "$CNI_IFNAME"
  ip -n "$pod" link set "$CNI_IFNAME" up
  ip -n "$pod" route add default via "$gateway"
  trap - EXIT
  cat <<EOF
{
  "cniVersion": "1.0.0",
  "interfaces": [{"name": "$host_device"}, {"name": "$CNI_IFNAME", "sandbox": "$CNI_NETNS"}],
  "ips": [{"address": "$address/$prefix", "gateway": "$gateway", "interface": 1}]
}
EOF
}

del() {
  ip link delete "$host_device" 2>/dev/null || true
  release_address
}

bridge=$(setting bridge)
gateway=$(setting gateway)
prefix=$(setting prefixLength)
data=$(setting dataDir)
owner=$CNI_CONTAINERID-$CNI_IFNAME
host_device=veth$(printf %s "$owner" | cksum | cut -d ' ' -f 1)
mkdir -p "$data"

case $CNI_COMMAND in
  ADD) add ;;
  DEL) del ;;
  VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
  *) fail 4 "CNI_COMMAND is $CNI_COMMAND; ADD, DEL and VERSION are there" ;;
esac
