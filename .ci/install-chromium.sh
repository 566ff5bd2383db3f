#!/bin/sh
# Install Chromium and a font for the tests of the report's page. Run as root; does nothing if already installed.
set -eu
if command -v chromium >/dev/null; then exec chromium --version; fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
exec chromium --version
