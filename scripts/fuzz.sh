#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS seconds, with libFuzzer on the stable compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-10}
# Our own code is built for libFuzzer to see its way through; what it depends on is what the tests have built already.
RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/fuzz-rustc.sh cargo build --profile tested --quiet --package aegisray-fuzz
for target in packets messages config node chat; do
    mkdir -p "fuzz/corpus/$target"
    log=$(mktemp)
    if ! "target/tested/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="fuzz/artifacts-$target-" "fuzz/corpus/$target" >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "fuzz target $target failed; the input is fuzz/artifacts-$target-*" >&2
        exit 1
    fi
    runs=$(grep -oE 'Done [0-9]+ runs' "$log" || true)
    echo "fuzz $target: ${runs:-done} in $seconds s, nothing found"
    rm -f "$log"
done
