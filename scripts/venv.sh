# Sourced by server, test, check and demo, which have gone to the project's root. POSIX sh.

is_python() {
  "$1" -I -c '
import sys
from importlib.util import find_spec
sys.exit(sys.version_info < (3, 11) or not find_spec("ensurepip"))' 2>/dev/null
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
  else
    set -- .venv/bin/python python3 python3.14 python3.13 python3.12 python3.11
  fi
  for candidate; do
    is_python "$candidate" && echo "$candidate" && return
  done
  cat >&2 <<MESSAGE
keyledger: no Python 3.11 or newer with its venv module here (tried: $*)
  Debian, Ubuntu: apt install python3 python3-venv     Fedora: dnf install python3     macOS: brew install python
  Or name one that is installed elsewhere: PYTHON=/path/to/python3 $0
MESSAGE
  return 1
}

# use_venv LOCK...: .venv is there afterwards, with these locks installed; installs nothing when it is already.
use_venv() {
  python=$(find_python) || exit 1
  "$python" -I scripts/make_venv.py "$@" || exit 1
}
