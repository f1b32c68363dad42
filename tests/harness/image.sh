#!/usr/bin/env bash
# Makes the image the test hosts run on, where it is missing, and prints its name: a Debian 12 that boots systemd.
# Nothing is pulled from an image registry: debootstrap fills a folder from this machine's own Debian mirror,
# npm adds PM2, Docker imports it. Needs root. SLUICE_TEST_IMAGE names an image of your own instead.
set -euo pipefail

NAME=sluice-test:debian12
SUITE=bookworm
PACKAGES=ca-certificates,dbus,git,iproute2,locales,nginx,nodejs,openssh-server,postgresql,procps,python3,sudo,systemd,systemd-sysv
NPM_PACKAGES=(npm@10.9.4 pm2@7.0.4)
RECIPE=$(sha256sum "${BASH_SOURCE[0]}" | cut -c 1-16)

fail() {
  echo "$*" >&2
  exit 1
}

present() { [ "$(docker image inspect --format '{{ index .Config.Labels "sluice.recipe" }}' "$NAME" 2>/dev/null)" = "$RECIPE" ]; }

# The first Debian mirror in this machine's own package sources; the project names none.
mirror() {
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
    grep -E '^(URIs:|deb )' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}

build() {
  local work root from
  from=$(mirror) || true
  [ -n "$from" ] || fail "no Debian mirror in this machine's package sources: set SLUICE_TEST_IMAGE to an image that boots systemd"
  for tool in debootstrap npm; do command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install $tool"; done
  [ "$(id -u)" = 0 ] || fail "debootstrap needs root to make $NAME: run as root once, or set SLUICE_TEST_IMAGE"

  work=$(mktemp -d "${TMPDIR:-/tmp}/sluice-image.XXXXXX")
  # shellcheck disable=SC2064 # the folder's name is wanted as it is now
  trap "rm -rf --one-file-system '$work'" EXIT
  root=$work/root
  echo "making the test image $NAME (about two minutes, once)" >&2
  debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$root" "$from" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
  npm install --global --prefix "$root/usr/local" --no-audit --no-fund --loglevel=error "${NPM_PACKAGES[@]}" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; fail "npm could not add ${NPM_PACKAGES[*]}"; }

  chroot "$root" useradd --create-home --shell /bin/bash ops
  echo 'ops ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/ops"
  chmod 0440 "$root/etc/sudoers.d/ops"
  # A container has no consoles, no disks and no kernel of its own: what waits for them would leave systemd "starting".
  for unit in getty.target console-getty.service systemd-udevd.service systemd-modules-load.service sys-kernel-debug.mount \
    sys-kernel-tracing.mount dev-hugepages.mount systemd-remount-fs.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  : >"$root/etc/machine-id"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" --numeric-owner -c . |
    docker import --change 'CMD ["/sbin/init"]' --change "LABEL sluice.recipe=$RECIPE" - "$NAME" >/dev/null
}

if [ -n "${SLUICE_TEST_IMAGE:-}" ]; then
  docker image inspect "$SLUICE_TEST_IMAGE" >/dev/null 2>&1 || fail "SLUICE_TEST_IMAGE=$SLUICE_TEST_IMAGE is not an image this engine has"
  echo "$SLUICE_TEST_IMAGE"
  exit 0
fi
exec 9>"${TMPDIR:-/tmp}/sluice-image.$(id -u).lock"
flock 9
present || build
echo "$NAME"
