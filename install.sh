#!/usr/bin/env bash
# install.sh PREFIX : builds qbench and installs it, its plugins, the default model and data, the examples, and the sdk:
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
# The one for libtorch opens a library that lies beside it.
for plugin in plugins/{candle,libtorch}/target/{,*/}release/{libqbench_*,libtorch_backend}.so \
    "$built"/{libqbench_candle,libqbench_libtorch,libtorch_backend}.so; do
    [ ! -e "$plugin" ] || plugins+=("$plugin")
done
for plugin in "${plugins[@]}"; do
    put 755 "$plugin" "$prefix/lib/qbench/plugins/$(basename "$plugin")"
done
replace() { # FROM NAME
    rm -rf "$prefix/share/qbench/$2.new"
    cp -r "$1" "$prefix/share/qbench/$2.new"
    rm -rf "${prefix:?}/share/qbench/$2"
    mv "$prefix/share/qbench/$2.new" "$prefix/share/qbench/$2"
}
for part in go-mini-12m data slurm plans plugin-c; do
    replace "examples/$part" "$part"
done
# What `qbench plugin new` builds against: the packages, since a folder of this workspace is no crate elsewhere.
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
cargo package --quiet --no-verify --allow-dirty --package qbench-abi --package qbench-sdk --target-dir "$packages"
for name in qbench-abi qbench-sdk; do
    mkdir "$packages/$name"
    tar -xzf "$packages/package/$name"-*.crate -C "$packages/$name" --strip-components 1
    replace "$packages/$name" "$name"
done
"$prefix/bin/qbench" plugin list
echo "installed into $prefix; add $prefix/bin to PATH"
