#!/bin/sh
# Install Apptainer on Debian 12, which does not package it: take the package from Debian's unstable suite and keep
# the C library that it was built for separate, under /opt/apptainer. Run as root; does nothing if already installed.
set -eu
if command -v apptainer >/dev/null; then exec apptainer --version; fi

apt-get update -qq
apt-get install -y -qq patchelf squashfs-tools squashfuse ca-certificates >/dev/null

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/parts" "$work/debs" "$work/tree"
sed -n '1,/^$/p' /etc/apt/sources.list.d/debian.sources | sed 's/^Suites:.*/Suites: sid/' > "$work/parts/sid.sources"
chmod -R a+rX "$work"
sid() {
  apt-get -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts" -o Dir::State::lists="$work/lists" \
    -o Dir::Cache="$work/cache" -qq "$@"
}
sid update
(cd "$work/debs" && sid download -o APT::Sandbox::User=root apptainer libc6 libseccomp2 libsqlite3-0)
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/tree"; done

lib=/opt/apptainer/lib system=/usr/lib/x86_64-linux-gnu
mkdir -p "$lib" /var/lib/apptainer/mnt/session
cp -aL "$work/tree$system"/*.so* "$lib/"
cp -a "$work/tree$system/apptainer" "$system/"
cp -a "$work/tree/etc/apptainer" /etc/
cp "$work/tree/usr/bin/apptainer" /usr/bin/
for binary in /usr/bin/apptainer "$system/apptainer/bin/starter"; do
  patchelf --force-rpath --set-interpreter "$lib/ld-linux-x86-64.so.2" --set-rpath "$lib" "$binary"
done
# in a small virtual machine, root can lack capabilities that Apptainer requests by default
sed -i 's/^root default capabilities = .*/root default capabilities = no/' /etc/apptainer/apptainer.conf
exec apptainer --version
