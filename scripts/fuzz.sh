#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS seconds, with libFuzzer on the stable compiler.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${FUZZ_SECONDS:-10}
export RUSTFLAGS="-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
-C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
-C llvm-args=-sanitizer-coverage-trace-compares -C debug-assertions=on"
# Naming the target keeps the flags away from build scripts.
triple=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --quiet --target "$triple"
for target in packets messages config node chat; do
    mkdir -p "corpus/$target"
    log=$(mktemp)
    if ! ./target/$triple/release/$target -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="artifacts-$target-" "corpus/$target" >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "fuzz target $target failed; the input is fuzz/artifacts-$target-*" >&2
        exit 1
    fi
    runs=$(grep -oE 'Done [0-9]+ runs' "$log" || true)
    echo "fuzz $target: ${runs:-done} in $seconds s, nothing found"
    rm -f "$log"
done
