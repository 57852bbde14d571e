#!/usr/bin/env bash
# The whole study: data, models, unlearning, diagnostics, evaluation, attack, report. Skips what is there and up to date.
#   ./experiment/pipeline.sh                          the mini family, offline, minutes
#   ./experiment/pipeline.sh --preset deep-ignorance  three 6.9B models from the hub
#   ./experiment/pipeline.sh --base A --unlearned B --data DIR   two models of your own, without one that never saw the facts
#   ./experiment/pipeline.sh --base A --method npo --data DIR    the same, and B is made by a method
#   ./experiment/pipeline.sh --base A --unlearned B              the weights alone
#   ./experiment/pipeline.sh --help                   all options (--base --filtered --unlearned --force --dry-run --only ...)
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)   # paths that you give start where you stand
command -v uv >/dev/null || { echo "error: uv not found. Install it with: pip install uv" >&2; exit 127; }
exec uv run --frozen --project "$repository" "$repository/experiment/pipeline.py" "$@"
