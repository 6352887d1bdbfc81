# shellcheck shell=bash
# Sourced by setup.sh and lock.sh: gives uv what pip was told about where packages come from. uv reads none of pip's
# settings, so a machine that is set up for pip alone would otherwise look in the wrong place.
#
# usage: configure_uv PYTHON cpu|gpu        sets UV_FIND_LINKS, UV_DEFAULT_INDEX, SSL_CERT_FILE and UV_BACKEND (an array)

UV_VERSION=0.13.8

pip_setting() { # PYTHON NAME: the setting from pip's configuration files, or nothing
    "$1" -m pip config get "global.$2" 2>/dev/null || true
}

holds_cpu_torch() { # FOLDERS: true when one of them holds a wheel of torch for CPU
    local folder wheel
    for folder in $1; do
        for wheel in "${folder#file://}"/torch-*+cpu-*.whl; do
            [ -e "$wheel" ] && return 0
        done
    done
    return 1
}

configure_uv() {
    local python=$1 device=$2 links index
    links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(pip_setting "$python" find-links)}}
    links=$(echo "$links" | tr ',\n' '  ')
    index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip_setting "$python" index-url)}}
    UV_BACKEND=()
    if holds_cpu_torch "$links"; then
        # 2.13.0+cpu counts as newer than 2.13.0: beside such a folder a GPU machine would get the CPU build.
        [ "$device" = gpu ] && links=
    elif [ "$device" = cpu ]; then
        UV_BACKEND=(--torch-backend cpu) # uv knows where the CPU builds of torch are
    fi
    unset UV_FIND_LINKS
    links=$(echo "$links" | xargs | tr ' ' ',')
    [ -z "$links" ] || export UV_FIND_LINKS=$links
    [ -z "$index" ] || export UV_DEFAULT_INDEX=$index
    [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
}

ensure_uv() { # PYTHON: puts uv beside it, unless the right one is there
    local python=$1
    local uv
    uv=$(dirname "$python")/uv
    [ "$("$uv" --version 2>/dev/null | cut -d' ' -f2)" = "$UV_VERSION" ] && return
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip --upgrade >/dev/null
    "$python" -m pip install -qq --disable-pip-version-check "uv==$UV_VERSION"
}
