#!/bin/bash
# Gets pictures that are no radiographs, by package, into a folder for `make anatomy-model` and `make pixel-check`:
#   bash scripts/foreign_pictures.sh FOLDER
# About 600 MB. Nothing is installed; the licences are those of the packages.
set -euo pipefail
folder=$(realpath -m "$1")
python=$(realpath -s .venv/bin/python)
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$folder/.packages"
cd "$folder/.packages"
"$python" -m pip download --quiet --no-deps --no-binary :all: pillow==13.0.0
apt-get download -q opencv-doc python-skimage-doc oxygen-icon-theme tuxpaint-data tuxpaint-stamps-default gcompris-qt-data \
    plasma-workspace-wallpapers mate-backgrounds ukui-wallpapers gdcm-doc scilab-doc python-pydicom-doc freedoom
unpack() { # library, package
    mkdir -p "$folder/$1"
    dpkg-deb -x "$2"_*.deb "$folder/$1"
}
mkdir -p "$folder/pillow" && tar -xzf pillow-*.tar.gz -C "$folder/pillow"
unpack opencv opencv-doc
unpack skimage python-skimage-doc
cp -rL "$site/skimage/data" "$folder/skimage/"
for package in oxygen-icon-theme tuxpaint-data gcompris-qt-data; do unpack icons $package; done
unpack stamps tuxpaint-stamps-default
for package in plasma-workspace-wallpapers mate-backgrounds ukui-wallpapers; do unpack wallpapers $package; done
for package in gdcm-doc scilab-doc python-pydicom-doc freedoom; do unpack manuals $package; done
for package in sklearn matplotlib; do cp -rL "$site/$package" "$folder/manuals/"; done
