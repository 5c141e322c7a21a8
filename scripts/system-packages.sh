#!/usr/bin/env bash
# Debian packages: installed when root, named when not. Reports need the first ones; a name in a script that no font
# has prints as boxes without the second; tests that ask a browser, dciodvfy or Orthanc are skipped without the third.
set -euo pipefail

needed=(libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 fonts-dejavu-core)
wanted=(fonts-noto-core fonts-noto-cjk)
for_tests=(chromium chromium-driver poppler-utils dicom3tools dcmtk orthanc orthanc-dicomweb)
if ! command -v dpkg-query >/dev/null; then
    echo "Not a Debian system: make sure that Pango >= 1.44, harfbuzz-subset and a DejaVu font are installed." >&2
    exit 0
fi

# missing PACKAGE...: those that are not installed, a line each
missing() {
    for package in "$@"; do
        # dpkg-query's own format string, not a shell variable
        # shellcheck disable=SC2016
        dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed \
            || echo "$package"
    done
}

mapfile -t absent < <(missing "${needed[@]}")
mapfile -t absent_extras < <(missing "${wanted[@]}" "${for_tests[@]}")
[ $((${#absent[@]} + ${#absent_extras[@]})) -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    if [ ${#absent_extras[@]} -gt 0 ]; then
        echo "For names in every script, and for the tests that ask a browser or DICOM tools, these Debian packages are missing:" >&2
        echo "    sudo apt-get install ${absent_extras[*]}" >&2
    fi
    [ ${#absent[@]} -eq 0 ] && exit 0
    echo "PDF reports need these Debian packages. Please run, once:" >&2
    echo "    sudo apt-get install ${absent[*]}" >&2
    echo "and then this command again." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
if [ ${#absent[@]} -gt 0 ]; then
    echo "Installing for PDF reports: ${absent[*]}"
    apt-get install -y -qq --no-install-recommends "${absent[@]}" >/dev/null
fi
# One by one: another release of Debian may not have one of them, and nothing else should suffer for it.
for package in "${absent_extras[@]}"; do
    echo "Installing for names in every script and for tests: $package"
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 \
        || echo "This Debian does not have $package; what needs it is skipped." >&2
done
