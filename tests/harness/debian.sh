# shellcheck shell=bash
# What the scripts beside this one share: the end with a reason, and this machine's own Debian mirror.

fail() {
  echo "$*" >&2
  exit 1
}

# The first Debian mirror in this machine's own package sources; the project names none.
mirror() {
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
    grep -E '^(URIs:|deb )' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}
