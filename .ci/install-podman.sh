#!/bin/sh
# Install Podman, configured for a small virtual machine (runc, the host's network, modest limits), and build the base
# image of containers/Containerfile with debootstrap, so that no image registry is needed. Run as root; repeatable.
set -eu
if ! command -v podman >/dev/null || ! command -v debootstrap >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq podman runc fuse-overlayfs debootstrap >/dev/null
fi
mkdir -p /etc/containers
cat > /etc/containers/containers.conf <<'CONF'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
CONF
base=localhost/debian:bookworm-slim
if ! podman image exists "$base"; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  debootstrap --variant=minbase --include=ca-certificates bookworm "$work/tree" >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
  tar -C "$work/tree" -cf "$work/tree.tar" .
  podman import -q "$work/tree.tar" "$base"
fi
podman run --rm "$base" cat /etc/debian_version
