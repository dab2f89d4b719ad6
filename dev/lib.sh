# Shared by the scripts of this folder, which source it.
# shellcheck shell=bash

# Else "set -e" would not hold within $(...).
shopt -s inherit_errexit

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$repo/target
PATH=$target/tools/bin:$PATH

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The one version of pgrx that the extension is written for; cargo-pgrx must be the same.
pgrx_version() {
    sed -nE 's/^pgrx = .*"=([0-9.]+)".*/\1/p' "$repo/Cargo.toml"
}

major_of() {
    "$1" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/'
}

# Prints the pg_config to use for PostgreSQL $1: that of PG_CONFIG when set, else the private one.
pg_config_of() {
    local root=$target/pgtree/$1
    if [ -n "${PG_CONFIG:-}" ]; then
        command -v "$PG_CONFIG" || die "PG_CONFIG: there is no program $PG_CONFIG"
    elif [ -f "$root/pg_config.path" ]; then
        echo "$root/$(cat "$root/pg_config.path")"
    else
        die "no private PostgreSQL $1; make it with: dev/setup $1"
    fi
}

# Prints the major versions to work on: that of PG_CONFIG when set, else the arguments, else 18.
versions() {
    if [ -n "${PG_CONFIG:-}" ]; then
        local pg_config
        pg_config=$(pg_config_of any) || return
        major_of "$pg_config"
    elif [ $# -gt 0 ]; then
        echo "$@"
    else
        echo 18
    fi
}

# Prints the version that Cargo.toml says.
version_now() {
    sed -nE '/^\[workspace.package\]/,/^\[/ s/^version = "(.*)"/\1/p' "$repo/Cargo.toml"
}

# Prints the last version whose install script is kept, which is this one when it has been released.
version_released() {
    local file
    for file in "$repo"/sql/releases/ratelimit--*.sql; do
        file=$(basename "$file" .sql)
        case ${file#ratelimit--} in
            *--*) ;;
            *) echo "${file#ratelimit--}" ;;
        esac
    done | sort -V | tail -1
}

# Prints the script that updates from release $1: sql/upgrade.sql with the files that it names.
upgrade_script() {
    local line
    while IFS= read -r line; do
        case $line in
            '-- create '*) cat "$repo/sql/${line#-- create }" ;;
            '-- replace '*) sed 's/^CREATE FUNCTION/CREATE OR REPLACE FUNCTION/' "$repo/sql/${line#-- replace }" ;;
            *) printf '%s\n' "${line//@RELEASED@/$1}" ;;
        esac
    done <"$repo/sql/upgrade.sql"
}

# Adds the scripts of all releases, and the one from the last release to this version, to the folder $1, which has the install script
# of this version.
add_releases() {
    local now released
    now=$(version_now)
    released=$(version_released)
    if [ "$released" != "$now" ]; then
        upgrade_script "$released" >"$1/ratelimit--$released--$now.sql"
    # pgrx says in comments which lines of the source it has statements from.
    elif ! diff -I '^-- src/' "$repo/sql/releases/ratelimit--$now.sql" "$1/ratelimit--$now.sql" >&2; then
        die "$now is released, and sql/ has changed: raise the version in Cargo.toml, and say in sql/upgrade.sql what has changed"
    fi
    cp "$repo"/sql/releases/*.sql "$1/"
}

# Where setup puts a pgbouncer, with the libraries that it needs.
pgbouncer=$target/tools/pgbouncer/pgbouncer

# Where setup puts pgspot, and which one: it finds what a planted object could do to an SQL script.
pgspot_version=0.9.4
pglast_version=7.21
pgspot=$target/tools/pgspot-$pgspot_version-$pglast_version

# Sets what cargo needs to compile the extension for PostgreSQL $1.
# Each version has its own target folder: switching versions in one costs minutes.
use_pg() {
    pg_config=$(pg_config_of "$1")
    export CARGO_TARGET_DIR=$target/pg$1
    export PGRX_HOME=$CARGO_TARGET_DIR/pgrx
    export PGRX_PG_CONFIG_PATH=$pg_config
}

# Builds the extension for PostgreSQL $1 and puts its files into $2/lib and $2/extension, with the SQL of all releases.
# Call use_pg first.
package() {
    local out=$CARGO_TARGET_DIR/out
    say "building for PostgreSQL $1"
    rm -rf "$out" "$2"
    # cargo pgrx adds link flags which a plain cargo build lacks. The lines about its own steps,
    # the only ones in colour then, are left out.
    (cd "$repo" && CARGO_TERM_COLOR=never cargo pgrx package --package ratelimit \
        --pg-config "$pg_config" --no-default-features --features "pg$1" --out-dir "$out") 2>&1 |
        sed -u $'/^\e/d' >&2
    mkdir -p "$2"
    # Below "out" the files have the full paths of that server's folders.
    mv "$out$("$pg_config" --pkglibdir)" "$2/lib"
    mv "$out$("$pg_config" --sharedir)/extension" "$2/extension"
    rm -r "$out"
    add_releases "$2/extension"
}
