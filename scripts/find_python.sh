#!/bin/sh
# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of a Python >= 3.12 that can make virtual environments: python3.14, 3.13, 3.12 or
# python3 on PATH, else one that pyenv holds although it isn't the default.

suits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

for name in python3.14 python3.13 python3.12 python3 python; do
    path=$(command -v "$name" 2>/dev/null) || continue
    if suits "$path"; then
        "$path" -c 'import sys; print(sys.executable)'
        exit 0
    fi
done

for version in 3.14 3.13 3.12; do
    for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin/python3; do
        if [ -x "$path" ] && suits "$path"; then
            echo "$path"
            exit 0
        fi
    done
done

echo "No Python >= 3.12 with venv found: install one (Debian, Ubuntu: apt-get install python3.12 python3.12-venv; anywhere: pyenv install 3.12)." >&2
exit 1
