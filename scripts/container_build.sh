#!/usr/bin/env bash
# Builds the container image where no registry of images is to be had: on a Debian made by debootstrap. Needs root,
# buildah and debootstrap. The images lie in build/container; scripts/container_check.py runs them.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${CONTAINER_WORK:-build/container}
suite=${CONTAINER_SUITE:-bookworm}
mirror=${CONTAINER_MIRROR:-http://deb.debian.org}
mkdir -p "$work"
work=$(realpath "$work")
here() { buildah --storage-driver vfs --root "$work/storage" --runroot "$work/run" "$@"; }

if ! here inspect --type image localhost/base >/dev/null 2>&1; then
    echo "Making the base: Debian $suite"
    rm -rf "$work/rootfs"
    debootstrap --variant=minbase "$suite" "$work/rootfs" "$mirror/debian" >"$work/debootstrap.log"
    # The security updates that a published image has, too.
    echo "deb $mirror/debian-security $suite-security main" >"$work/rootfs/etc/apt/sources.list.d/security.list"
    chroot "$work/rootfs" sh -c 'apt-get update -qq && apt-get upgrade -qq -y && apt-get clean && rm -rf /var/lib/apt/lists/*' \
        >>"$work/debootstrap.log" 2>&1
    container=$(here from scratch)
    here add --quiet "$container" "$work/rootfs" / >/dev/null
    here commit --quiet --rm "$container" localhost/base >/dev/null
    rm -rf "$work/rootfs"
fi

echo "Building the image"
# pip's index and certificates are this machine's own business: secrets of the build, in no layer.
{
    echo "[global]"
    echo "cert = /run/secrets/ca.pem"
    index=$(python3 -m pip config get global.index-url 2>/dev/null || true)
    [ -z "$index" ] || echo "index-url = $index"
} >"$work/pip.conf"
here build --isolation chroot --format docker --pull-never --build-arg BASE=localhost/base "$@" \
    --secret id=pip_conf,src="$work/pip.conf" --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt \
    --tag localhost/cxrbatch . >"$work/build.log" 2>&1 || { tail -40 "$work/build.log"; exit 1; }
here images
