#!/bin/sh
# Installs SLURM's daemons and commands, munge, and the database of its accounting, without starting or
# configuring any. Run as root.
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
