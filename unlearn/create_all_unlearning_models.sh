#!/usr/bin/env bash
# Every unlearned model of a preset (default: the mini family), what exists and is up to date skipped; then the relearning
# attack on each, and a table: outputs/methods.csv. Options: see --help (--methods ga,npo --no-attack --dry-run ...).
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)   # paths that you give start where you stand
command -v uv >/dev/null || { echo "error: uv not found. Install it with: pip install uv" >&2; exit 127; }
exec uv run --frozen --project "$repository" "$repository/unlearn/create_all.py" "$@"
