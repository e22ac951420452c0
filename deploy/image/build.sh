#!/bin/sh
# build.sh TARGET [BASE] [OPTION...]: builds prelim:VERSION-TARGET with buildah, which needs no daemon, and prints the
# size of each layer. BASE is an image of Debian 12; "bootstrap" makes one from Debian's packages, where no registry of
# images can be reached, and "" is the Containerfile's own. Further options go to buildah.
set -eu
cd "$(dirname "$0")/../.."
target=$1
base=${2:-}
shift
[ "$#" = 0 ] || shift
command -v buildah >/dev/null || { echo "buildah is not installed: apt-get install buildah" >&2; exit 1; }
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' model_src/prelim/__init__.py)

if [ "$base" = bootstrap ]; then
    base=localhost/prelim-base:bookworm
    if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            bookworm "$folder/base.tar"
        printf 'FROM scratch\nADD base.tar /\n' | buildah bud --quiet --isolation chroot --tag "$base" --file - "$folder"
    fi
fi
[ -z "$base" ] || set -- --build-arg "BASE=$base" "$@"
# The certificates of a proxy that opens TLS connections.
if [ -n "${SSL_CERT_FILE:-}" ]; then
    set -- --volume "$SSL_CERT_FILE:/run/site.pem:ro" --build-arg PIP_CERT=/run/site.pem "$@"
fi
# Without privileges of its own, as in a container that builds, only chroot isolates.
buildah bud --isolation chroot --layers --target "$target" --tag "prelim:$version-$target" \
    --file deploy/image/Containerfile "$@" .
python3 -m deploy.layers "prelim:$version-$target"
