#!/bin/sh
# The compiler, for what libFuzzer is to see its way through: coverage, comparisons, and assertions that end the run.
case " $* " in *" --crate-name build_script_"*) exec "$@" ;; esac
exec "$@" -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares -C debug-assertions=on
