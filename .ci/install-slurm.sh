#!/bin/sh
# Install SLURM's daemons and commands, munge, and its accounting database, without starting or configuring them.
# Run as root; does nothing if already installed.
set -eu
if command -v slurmdbd >/dev/null && command -v mariadbd >/dev/null; then exit 0; fi
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod 755 $policy
  trap 'rm $policy' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurm-wlm munge slurmdbd mariadb-server >/dev/null
