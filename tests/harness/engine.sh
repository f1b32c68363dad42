#!/usr/bin/env bash
# Sees to it that a Docker engine answers: starts this machine's own where none does. Installs nothing.
set -euo pipefail

LOG=${TMPDIR:-/tmp}/sluice-dockerd.$(id -u).log

answers() { timeout 10 docker info >/dev/null 2>&1; }

fail() {
  echo "$*" >&2
  exit 1
}

# The engine outlives this script: it must not hold the caller's output open. Debian's init script mounts the control
# groups where they are missing, but raises limits first and gives up where the machine does not let it (a container
# without CAP_SYS_RESOURCE): the engine itself needs neither there.
start() {
  if [ -d /run/systemd/system ]; then
    systemctl start docker
  elif [ -x /etc/init.d/docker ] && /etc/init.d/docker start; then
    return
  else
    setsid dockerd &
  fi </dev/null >"$LOG" 2>&1
}

command -v docker >/dev/null || fail "no Docker: install the engine (Debian: apt-get install docker.io)"
answers && exit
command -v dockerd >/dev/null || fail "no Docker engine answers, and none is installed here (Debian: apt-get install docker.io)"
[ "$(id -u)" = 0 ] || fail "no Docker engine answers this user: start it, or let the user reach it (group docker)"
start || { tail -n 20 "$LOG" >&2; fail "the Docker engine did not start"; }
for _ in $(seq 60); do
  answers && exit
  sleep 1
done
tail -n 20 "$LOG" >&2
fail "the Docker engine does not answer, a minute after it was started"
