#!/usr/bin/env bash
# Makes an image that test hosts run on, where it is missing, and prints its name: a Debian 12 that boots systemd.
#
#     image.sh          with all that a release needs                              (or SLUICE_TEST_IMAGE, an image of your own)
#     image.sh bare     with nothing but Python and SSH, for what has to install   (or SLUICE_BARE_IMAGE)
#
# An image of your own may come from a registry; molecule/README.md says what it must hold. Otherwise nothing is pulled:
# debootstrap fills a folder from this machine's own Debian mirror, npm adds PM2, Docker imports it. Needs root.
set -euo pipefail

SUITE=bookworm
PACKAGES=dbus,openssh-server,python3,sudo,systemd,systemd-sysv
NPM_PACKAGES=()
case ${1:-full} in
  full)
    NAME=sluice-test:debian12 OWN=SLUICE_TEST_IMAGE
    PACKAGES+=,acl,ca-certificates,git,iproute2,locales,logrotate,nginx,nodejs,postgresql,procps
    NPM_PACKAGES=(npm@10.9.4 pm2@7.0.4)
    ;;
  bare) NAME=sluice-test-bare:debian12 OWN=SLUICE_BARE_IMAGE ;;
  *) echo "image.sh: no image is called '$1'; there are: full bare" >&2 && exit 2 ;;
esac
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
  [ -n "$from" ] || fail "no Debian mirror in this machine's package sources: set $OWN to an image that boots systemd"
  for tool in debootstrap ${NPM_PACKAGES:+npm}; do command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install $tool"; done
  [ "$(id -u)" = 0 ] || fail "debootstrap needs root to make $NAME: run as root once, or set $OWN"

  work=$(mktemp -d "${TMPDIR:-/tmp}/sluice-image.XXXXXX")
  # shellcheck disable=SC2064 # the folder's name is wanted as it is now
  trap "rm -rf --one-file-system '$work'" EXIT
  root=$work/root
  echo "making the test image $NAME (about two minutes, once)" >&2
  debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$root" "$from" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
  [ ${#NPM_PACKAGES[@]} = 0 ] ||
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

if [ -n "${!OWN:-}" ]; then
  docker image inspect "${!OWN}" >/dev/null 2>&1 || docker pull --quiet "${!OWN}" >/dev/null ||
    fail "$OWN=${!OWN} is neither an image this engine has nor one it can pull"
  echo "${!OWN}"
  exit 0
fi
exec 9>"${TMPDIR:-/tmp}/sluice-image.$(id -u).lock"
flock 9
present || build
echo "$NAME"
