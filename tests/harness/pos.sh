#!/usr/bin/env bash
# Makes the image that the app pos is built on, where it is missing, and prints its name: a Debian 12 with Python and
# the packages the app imports. Nothing is pulled from an image registry: debootstrap fills a folder from this
# machine's own Debian mirror, Docker imports it. Needs root. SLUICE_POS_IMAGE names an image of your own instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/harness/debian.sh
. ./debian.sh

NAME=sluice-pos-base:debian12
SUITE=bookworm
PACKAGES=alembic,python3,python3-fastapi,python3-psycopg2,python3-redis,python3-uvicorn,python3-websockets
RECIPE=$(sha256sum pos.sh | cut -c 1-16)

present() { [ "$(docker image inspect --format '{{ index .Config.Labels "sluice.recipe" }}' "$NAME" 2>/dev/null)" = "$RECIPE" ]; }

build() {
  local work root from
  from=$(mirror) || true
  [ -n "$from" ] || fail "no Debian mirror in this machine's package sources: set SLUICE_POS_IMAGE to an image with $PACKAGES"
  command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
  [ "$(id -u)" = 0 ] || fail "debootstrap needs root to make $NAME: run as root once, or set SLUICE_POS_IMAGE"

  work=$(mktemp -d "${TMPDIR:-/tmp}/sluice-pos.XXXXXX")
  # shellcheck disable=SC2064 # the folder's name is wanted as it is now
  trap "rm -rf --one-file-system '$work'" EXIT
  root=$work/root
  echo "making the image $NAME (about two minutes, once)" >&2
  debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$root" "$from" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/*
  tar -C "$root" --numeric-owner -c . |
    docker import --change 'ENV PYTHONUNBUFFERED=1' --change 'ENV PYTHONDONTWRITEBYTECODE=1' --change "LABEL sluice.recipe=$RECIPE" - "$NAME" >/dev/null
}

if [ -n "${SLUICE_POS_IMAGE:-}" ]; then
  docker image inspect "$SLUICE_POS_IMAGE" >/dev/null 2>&1 || fail "SLUICE_POS_IMAGE=$SLUICE_POS_IMAGE is not an image this engine has"
  echo "$SLUICE_POS_IMAGE"
  exit 0
fi
exec 9>"${TMPDIR:-/tmp}/sluice-pos.$(id -u).lock"
flock 9
present || build
echo "$NAME"
