#!/usr/bin/env bash
# Sees to it that `docker compose` is there, and prints the folder of the plugin: the machine's own where it has one, else
# the one of Debian 13 (Debian 12 has none), unpacked from this machine's own mirror into the folder named as the first
# argument. The package is checked by the archive's own index, and the index by the archive's signature. Installs nothing.
set -euo pipefail
# shellcheck source=tests/harness/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

SUITE=trixie
PACKAGE=docker-compose
PLUGIN=usr/libexec/docker/cli-plugins/docker-compose
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
TARGET=${1:?usage: compose.sh FOLDER}
mkdir -p "$TARGET"
TARGET=$(cd "$TARGET" && pwd)

get() { curl --fail --silent --show-error --location --retry 3 --max-time 300 --output "$2" "$1"; }

for folder in "$HOME/.docker/cli-plugins" /usr/local/lib/docker/cli-plugins /usr/local/libexec/docker/cli-plugins /usr/lib/docker/cli-plugins \
  /usr/libexec/docker/cli-plugins "$TARGET"; do
  if [ -x "$folder/docker-compose" ] && "$folder/docker-compose" version >/dev/null 2>&1; then
    echo "$folder"
    exit
  fi
done

from=$(mirror) || true
[ -n "$from" ] || fail "no Debian mirror in this machine's package sources: install the compose plugin of Docker"
for tool in curl gpgv dpkg-deb xz; do command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install curl gpgv dpkg xz-utils"; done
arch=$(dpkg --print-architecture)
work=$(mktemp -d "${TMPDIR:-/tmp}/sluice-compose.XXXXXX")
trap 'rm -rf "$work"' EXIT
from=${from%/}
get "$from/dists/$SUITE/InRelease" "$work/signed"
gpgv --quiet --keyring "$KEYS" --output "$work/release" "$work/signed" 2>"$work/said" || { cat "$work/said" >&2; fail "the index of $SUITE is not signed by the archive"; }
index=main/binary-$arch/Packages.xz
sum=$(awk -v name="$index" '/^SHA256:/ {on = 1; next} /^[^ ]/ {on = 0} on && $3 == name {print $1}' "$work/release")
get "$from/dists/$SUITE/$index" "$work/Packages.xz"
echo "$sum  $work/Packages.xz" | sha256sum --check --status || fail "the package list of $SUITE is not the one its index names"
read -r file sum < <(xz -dc "$work/Packages.xz" | awk -v name="$PACKAGE" '
  $1 == "Package:" {mine = $2 == name} mine && $1 == "Filename:" {file = $2} mine && $1 == "SHA256:" {print file, $2; exit}')
get "$from/$file" "$work/package.deb"
echo "$sum  $work/package.deb" | sha256sum --check --status || fail "$file is not the one the package list names"
dpkg-deb --extract "$work/package.deb" "$work/tree"
install -m 0755 "$work/tree/$PLUGIN" "$TARGET/.docker-compose.$$"
mv "$TARGET/.docker-compose.$$" "$TARGET/docker-compose"
"$TARGET/docker-compose" version >/dev/null || fail "the compose plugin of Debian 13 does not run on this machine"
echo "$TARGET"
