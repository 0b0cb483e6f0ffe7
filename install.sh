#!/usr/bin/env bash
# install.sh PREFIX : builds qbench and installs it, its plugins, the default model and data, and the examples:
#   PREFIX/bin/qbench   PREFIX/lib/qbench/plugins/*.so   PREFIX/share/qbench/
# The prefix may lie on a shared file system and may be moved: everything is found from the program's own place.
set -euo pipefail
[ $# = 1 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
cd "$(dirname "$0")"

cargo build --release
built=${CARGO_TARGET_DIR:-target}/release
# Each file is put beside its place and renamed, so that programs that run keep what they have.
put() { install -m "$1" "$2" "$3.new" && mv -f "$3.new" "$3"; }

mkdir -p "$prefix"/bin "$prefix"/lib/qbench/plugins "$prefix"/share/qbench
put 755 "$built/qbench" "$prefix/bin/qbench"
plugins=("$built"/libqbench_modes.so "$built"/libqbench_cpu.so)
# Backends for GPUs are built by themselves, where their libraries are; what was built is installed.
for plugin in plugins/{candle,libtorch}/target/{,*/}release/libqbench_*.so "$built"/libqbench_{candle,libtorch}.so; do
    [ ! -e "$plugin" ] || plugins+=("$plugin")
done
for plugin in "${plugins[@]}"; do
    put 755 "$plugin" "$prefix/lib/qbench/plugins/$(basename "$plugin")"
done
for part in go-mini-12m data slurm plans; do
    rm -rf "$prefix/share/qbench/$part.new"
    cp -r "examples/$part" "$prefix/share/qbench/$part.new"
    rm -rf "${prefix:?}/share/qbench/$part"
    mv "$prefix/share/qbench/$part.new" "$prefix/share/qbench/$part"
done
"$prefix/bin/qbench" plugin list
echo "installed into $prefix; add $prefix/bin to PATH"
