#!/usr/bin/env bash
# Prints the instructions per message of a workload of benches/instructions.rs, as callgrind counts them. Two runs of
# different length are compared, so that the start of the program does not count.
set -euo pipefail
workload=$1
program=${PROGRAM:-$(cargo bench --bench instructions --no-run --message-format=json 2>/dev/null |
    grep -o '"executable":"[^"]*instructions-[^"]*"' | tail -1 | cut -d'"' -f4)}
out=$(mktemp)
trap 'rm -f "$out"' EXIT

instructions() { # MESSAGES
    valgrind --tool=callgrind --callgrind-out-file="$out" "$program" "$workload" "$1" 2>&1 | sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}

few=$(instructions 20000)
many=$(instructions 60000)
echo "$workload: $(((many - few) / 40000)) instructions per message"
