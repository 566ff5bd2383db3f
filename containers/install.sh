#!/bin/sh
# The steps that Containerfile and hlrs.def share; as root in Debian's root file system, in a folder that holds
# what they copied there.
#   install.sh environment      Debian's packages and everything in requirements.lock, into /opt/hlrs
#   install.sh code             this repository's code, as a package; needs VERSION and LOCK, which it checks
set -eu
cd "$(dirname "$0")"
pip="/opt/hlrs/bin/python -m pip --disable-pip-version-check --no-cache-dir"

environment() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq --no-install-recommends ca-certificates git python3 python3-venv >/dev/null
  rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*.log /var/log/apt
  # whoever runs the image need not own the checkout that is mounted into it
  git config --system --add safe.directory '*'
  python3 -m venv /opt/hlrs
  # every package comes as a wheel or is pure Python
  $pip install --quiet --require-hashes --requirement requirements.lock
  compile_for_triton
}

# The one C file that Triton compiles on a machine, between it and NVIDIA's driver (hlrs/nas/ops/triton_available.py). The
# driver's library is a stub here, and the compiler does not stay.
compile_for_triton() {
  apt-get update -qq
  apt-get install -qq --no-install-recommends gcc libc6-dev python3-dev >/dev/null
  triton=$(/opt/hlrs/bin/python -c 'import importlib.util as u; print(u.find_spec("triton").submodule_search_locations[0])')
  headers=$(/opt/hlrs/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
  stub=$(mktemp -d)
  gcc -shared -o "$stub/libcuda.so.1" -Wl,-soname,libcuda.so.1 -x c /dev/null
  mkdir -p /opt/hlrs/lib/triton
  gcc "$triton/backends/nvidia/driver.c" -O3 -shared -fPIC -Wno-psabi -o /opt/hlrs/lib/triton/cuda_utils.so \
    -I"$triton/backends/nvidia/include" -I"$headers" -L"$stub" -Wl,--no-as-needed -l:libcuda.so.1
  rm -r "$stub"
  # binutils by name: a package that another one suggests counts as wanted
  apt-get purge -qq --autoremove gcc binutils libc6-dev python3-dev >/dev/null
  rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*.log /var/log/apt
}

code() {
  [ "$LOCK" = "$(sha256sum requirements.lock | cut -d ' ' -f 1)" ] ||
    { echo "LOCK is not the SHA-256 of requirements.lock: '$LOCK'" >&2; exit 1; }
  $pip install --quiet --no-deps --no-build-isolation .
  # the provenance record looks for the lock file beside the package
  cp requirements.lock "$(/opt/hlrs/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  [ "$(/opt/hlrs/bin/hlrs --version)" = "hlrs, version $VERSION" ] ||
    { echo "VERSION is not that of pyproject.toml: '$VERSION'" >&2; exit 1; }
}

"$1"
