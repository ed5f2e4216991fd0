#!/usr/bin/env bash
# Install, run, test, open the notebooks: see `bash setup.sh help`.

# If started with another shell (`sh setup.sh`), restart with bash. The script is POSIX sh up to here.
if [ -z "${BASH_VERSION:-}" ]; then
  command -v bash >/dev/null 2>&1 && exec bash "$0" "$@"
  echo "[setup] bash was not found. What to do: install it (apt install bash, apk add bash)." >&2
  exit 1
fi
# If sourced, `exit` would end the user's shell.
if (return 0 2>/dev/null); then
  echo "[setup] This script must be run, not sourced. What to do: bash ${BASH_SOURCE[0]} ${*:-help}" >&2
  return 1
fi
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
venv="$root/.venv"
system=""

usage() {
  cat <<'TEXT'
bash setup.sh [--system] install [extras]        install the package (extras: notebook dev jupyter heif serve transcripts portraits cluster s3 gs)
bash setup.sh [--system] run [name=value ...]    run the batch_swap notebook without a browser; by default the demo
bash setup.sh [--system] test [pytest options]   run the test suite
bash setup.sh [--system] notebook [lab options]  open the notebooks in JupyterLab

Examples:  bash setup.sh run preset=speed
           bash setup.sh run 'sources=[me.jpg]' 'targets=[clips/]' consent='self: I am shown'

--system     use the current Python and keep all installed packages at their versions (always on Colab);
             otherwise everything is installed into .venv
PYTHON=...   the Python for creating .venv, or for --system (3.11, 3.12 or 3.13)
TEXT
}

say() { printf '[setup] %s\n' "$*"; }

die() {
  printf '[setup] The step "%s" failed: %s\nWhat to do: %s.\n' "$1" "$2" "$3" >&2
  exit 1
}

suitable() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

# Print the Python to use: $PYTHON, the current one with --system, or the newest suitable one. Each is started
# once, since a command may exist but fail (pyenv's shims).
find_python() {
  local name names=(python3.13 python3.12 python3.11 python3 python)
  [ -z "$system" ] || names=(python3 python)
  [ -z "${PYTHON:-}" ] || names=("$PYTHON")
  for name in "${names[@]}"; do
    if suitable "$name"; then
      command -v "$name"
      return
    fi
  done
  die "find Python" "none of ${names[*]} is Python 3.11, 3.12 or 3.13" \
    "install one (apt install python3.12 python3.12-venv, or: uv python install 3.12) or name it: PYTHON=/path/to/python3.12 bash setup.sh"
}

same_version() {
  local code='import sys; print(sys.version_info[:2])'
  [ "$("$1" -c "$code")" = "$("$2" -c "$code")" ]
}

make_venv() {
  local base="$1"
  say "creating .venv with $("$base" --version)"
  "$base" -m venv --clear "$venv" && return
  # Debian's Python has no ensurepip; uv does not need it.
  if command -v uv >/dev/null && uv venv --clear --seed --python "$base" "$venv"; then return; fi
  rm -rf "$venv"
  die "create .venv" "$base cannot create an environment (see above)" \
    "install its venv module (apt install python3-venv), or use the current Python: bash setup.sh --system install"
}

# Set $python to the interpreter to use.
choose_environment() {
  if [ -n "$system" ]; then
    python="$(find_python)"
    return
  fi
  # PYTHONPATH would take precedence over the packages of .venv; PYTHONHOME would hide its standard library.
  if [ -n "${PYTHONPATH:-}${PYTHONHOME:-}" ]; then
    say "PYTHONPATH and PYTHONHOME are ignored: .venv has its own packages"
    unset PYTHONPATH PYTHONHOME
  fi
  python="$venv/bin/python"
  if ! "$python" -c '' >/dev/null 2>&1; then
    [ ! -e "$venv" ] || say ".venv is damaged or its Python is missing; it will be created again"
    local base
    base="$(find_python)"
    make_venv "$base"
  elif ! suitable "$python" || { [ -n "${PYTHON:-}" ] && ! same_version "$PYTHON" "$python"; }; then
    die "choose Python" ".venv already uses $("$python" --version)" \
      "remove the folder $venv to have it created again, or unset PYTHON"
  fi
}

join_by_comma() {
  local IFS=,
  echo "$*"
}

install() {
  choose_environment
  "$python" "$root/colab_helpers/install.py" ${system:+--system} --extras "$1"
}

run() {
  install notebook
  local folder
  folder="$root/runs/$(date +%Y%m%d-%H%M%S)"
  [ ! -e "$folder" ] || folder="$folder-$$"
  say "running the batch_swap notebook; output folder: ${folder#"$PWD"/}"
  # exec: signals sent to this process must reach the one that can stop the batch.
  exec "$python" -m colab_helpers.ui.headless \
    "$root/notebooks/batch_swap.ipynb" "$folder/batch_swap.ipynb" "$@"
}

test_suite() {
  install dev,notebook
  cd "$root"
  say "running the tests"
  exec "$python" -m pytest -n auto "$@"
}

notebook() {
  install notebook,jupyter
  say "opening JupyterLab; stop it with Ctrl+C"
  exec "$python" -m jupyterlab "$root/notebooks" "$@"
}

main() {
  [ -z "${COLAB_RELEASE_TAG:-}" ] || system=yes
  if [ "${1:-}" = "--system" ]; then
    system=yes
    shift
  fi
  local command="${1:-help}"
  [ $# -eq 0 ] || shift
  if [ "${1:-}" = "--system" ]; then
    system=yes
    shift
  fi
  case "$command" in
    install) install "$(join_by_comma "${@:-notebook}")" ;;
    run) run "$@" ;;
    test) test_suite "$@" ;;
    notebook) notebook "$@" ;;
    help | -h | --help) usage ;;
    *)
      usage >&2
      say "unknown command '$command'" >&2
      exit 2
      ;;
  esac
}

main "$@"
