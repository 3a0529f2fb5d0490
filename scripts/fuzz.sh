#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS seconds, one on each processor at a time (FUZZ_JOBS), with libFuzzer on the stable
# compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
export seconds=${FUZZ_SECONDS:-60}
# Our own code is built for libFuzzer to see its way through; what it depends on is what the tests have built already.
RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/fuzz-rustc.sh cargo build --profile tested --quiet --package aegisray-fuzz
run() {
    local target=$1 corpus="fuzz/corpus/$1" log options=()
    mkdir -p "$corpus" fuzz/artifacts
    case $target in member | handshake)
        # Whole conversations: nothing short leads anywhere, so the fuzzer begins with long ones.
        options=(-len_control=0)
        if [ -z "$(ls -A "$corpus")" ]; then
            for size in 256 512 1024 2048; do head -c "$size" /dev/urandom >"$corpus/seed-$size"; done
        fi
        ;;
    esac
    log=$(mktemp)
    if ! "target/tested/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 "${options[@]}" \
        -artifact_prefix="fuzz/artifacts/$target-" "$corpus" >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "fuzz target $target failed; the input is fuzz/artifacts/$target-*" >&2
        rm -f "$log"
        return 1
    fi
    runs=$(grep -oE 'Done [0-9]+ runs' "$log" || true)
    echo "fuzz $target: ${runs:-done} in $seconds s, nothing found"
    rm -f "$log"
}
export -f run
printf '%s\n' member handshake node packets messages config chat | xargs -P "${FUZZ_JOBS:-$(nproc)}" -I{} bash -euo pipefail -c 'run {}'
