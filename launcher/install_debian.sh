#!/bin/sh
# install_debian.sh FILES PACKAGES: installs packages from Debian's archive if one of the files is missing.
# Where that is not possible it says so and succeeds: the tests that need them are skipped.
set -eu
missing=
for file in $1; do
    [ -e "$file" ] || missing="$missing $file"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "not installed, and this is not Debian:$missing; the tests that need them are skipped" >&2
    exit 0
fi
root=
[ "$(id -u)" = 0 ] || root="sudo -n"
# shellcheck disable=SC2086 # a list of packages
if ! { $root apt-get update -qq && $root apt-get install -qq -y --no-install-recommends $2; } >/dev/null; then
    echo "$2 could not be installed: the tests that need them are skipped" >&2
fi
# Debian starts some of them as services on all interfaces; the tests start their own.
if command -v systemctl >/dev/null; then
    for package in $2; do
        $root systemctl disable --now "${package%-light}" >/dev/null 2>&1 || true
    done
fi
