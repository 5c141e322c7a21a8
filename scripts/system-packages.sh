#!/usr/bin/env bash
# The Debian packages that WeasyPrint needs: installed when root, named when not.
set -euo pipefail

packages=(libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 fonts-dejavu-core)
missing=()
if ! command -v dpkg-query >/dev/null; then
    echo "Not a Debian system: make sure that Pango >= 1.44, harfbuzz-subset and a DejaVu font are installed." >&2
    exit 0
fi
for package in "${packages[@]}"; do
    # dpkg-query's own format string, not a shell variable
    # shellcheck disable=SC2016
    dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed \
        || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "PDF reports need these Debian packages. Please run, once:" >&2
    echo "    sudo apt-get install ${missing[*]}" >&2
    echo "and then this command again." >&2
    exit 1
fi
echo "Installing for PDF reports: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
