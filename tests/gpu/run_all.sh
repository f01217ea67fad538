#!/usr/bin/env bash
# Everything that needs a real card, in one call of at most ten minutes: tests/gpu/run_all.sh OUT [SECTION ...]
# What can be pretended of it, on a machine without one: tests/gpu/run_all.sh OUT --pretend [SECTION ...]
# OUT gets gpu.json, gpu.md and gpu.log. Exit status 1 where a check failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" -m tests.gpu.run_all "$@"
