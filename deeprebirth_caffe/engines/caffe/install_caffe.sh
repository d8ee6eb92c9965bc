#!/usr/bin/env bash
# Installs real Caffe 1.0 (the CPU build of Debian 11, "bullseye") into a directory of its own.
#
# Nothing on the machine changes: apt runs on a private tree, packages are unpacked and never configured, and two
# small wrappers, PREFIX/bin/caffe and PREFIX/bin/python, start the old programs with the C library they came with.
# No root is needed, and none of it does harm as root. See docs/caffe.md.
set -Eeuo pipefail
export LC_ALL=C  # apt's messages are read below, so they must be in English

readonly SUITE=bullseye
readonly PACKAGES=(caffe python3-caffe libopenblas0-pthread)
readonly STAMP_FORMAT=1
readonly NEEDED_KB=900000  # 165 MB of packages and 633 MB unpacked, with some air

say() { printf 'caffe: %s\n' "$*"; }
die() { printf 'install_caffe.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

usage() {
    cat <<'HELP'
Usage: install_caffe.sh [PREFIX] [--arch amd64|arm64|armhf] [--mirror URL] [--keyring FILE]

Installs Caffe 1.0 with pycaffe (Debian 11's packages, CPU only) into PREFIX, without root and
without touching the system. About 165 MB are downloaded; 650 MB of disk are used.

  PREFIX           where to put it; default: $REBIRTH_CAFFE_PREFIX, else
                   ${XDG_DATA_HOME:-~/.local/share}/rebirth/caffe
                   (with "-ARCH" behind it for an architecture that is not this machine's)
  --arch ARCH      amd64, arm64 or armhf (32-bit ARMv7); default: this machine's. Another one runs under
                   qemu-user.
  --mirror URL     a Debian mirror that carries bullseye; default: the one this machine's own
                   apt sources name. Needed where the machine is not a Debian.
  --keyring FILE   the keys the packages must be signed with; default: Debian's archive keyring
                   (package debian-archive-keyring)
  -h, --help       this text

An interrupted run goes on where it stopped when it is started again; a finished one is left alone.
Exit status: 0 done (or already there), 1 failed, 2 wrong usage.
HELP
}

# ---------------------------------------------------------------- the command line

prefix='' arch='' mirror='' keyring=''

need_value() { [[ $# -ge 2 && -n $2 ]] || die "$1 needs a value; see --help" 2; }

while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --arch | --mirror | --keyring)
            need_value "$@"
            printf -v "${1#--}" '%s' "$2"
            shift 2 ;;
        --arch=* | --mirror=* | --keyring=*)
            name=${1%%=*}
            need_value "$name" "${1#*=}"
            printf -v "${name#--}" '%s' "${1#*=}"
            shift ;;
        --) shift; break ;;
        -*) die "unknown option $1; see --help" 2 ;;
        *)
            [[ -n $1 ]] || die "PREFIX is empty; see --help" 2
            [[ -z $prefix ]] || die "one PREFIX at most: got '$prefix' and '$1'; see --help" 2
            prefix=$1
            shift ;;
    esac
done
if [[ $# -gt 0 ]]; then
    [[ $# -eq 1 && -z $prefix && -n $1 ]] || die "one PREFIX at most; see --help" 2
    prefix=$1
fi

case $(uname -m) in
    x86_64 | amd64) own_arch=amd64 ;;
    aarch64 | arm64) own_arch=arm64 ;;
    armv7l | armv8l) own_arch=armhf ;;
    *) own_arch='' ;;
esac
arch=${arch:-$own_arch}
case $arch in
    amd64) triple=x86_64-linux-gnu qemu=x86_64 natives='x86_64 | amd64' ;;
    arm64) triple=aarch64-linux-gnu qemu=aarch64 natives='aarch64 | arm64' ;;
    armhf) triple=arm-linux-gnueabihf qemu=arm natives='armv7l | armv8l' ;;
    '') die "this machine is a $(uname -m): say --arch amd64, arm64 or armhf (it will run under qemu-user)" 2 ;;
    *) die "unknown architecture '$arch': amd64, arm64 or armhf; see --help" 2 ;;
esac

if [[ -z $prefix ]]; then
    prefix=${REBIRTH_CAFFE_PREFIX:-}
    if [[ -z $prefix ]]; then
        [[ -n ${XDG_DATA_HOME:-}${HOME:-} ]] || die "HOME is not set: name the directory, install_caffe.sh PREFIX" 2
        prefix=${XDG_DATA_HOME:-$HOME/.local/share}/rebirth/caffe
    fi
    if [[ $arch != "$own_arch" ]]; then prefix+=-$arch; fi
fi
case $prefix in
    # The loader splits its search path at colons and semicolons, and expands dollars.
    *[:\;\$]* | *$'\n'*) die "PREFIX must not hold ':', ';', '\$' or a line break: '$prefix'" 2 ;;
esac
[[ $prefix == /* ]] || prefix=$PWD/$prefix
while [[ $prefix == */ && $prefix != / ]]; do prefix=${prefix%/}; done
if [[ $mirror == *[[:space:]]* ]]; then die "--mirror must not hold spaces: '$mirror'" 2; fi
if [[ -n $mirror && $mirror != *:* ]]; then die "--mirror wants a URL such as http://HOST/debian, got '$mirror'" 2; fi
mirror=${mirror%/}
if [[ -n $keyring ]]; then
    [[ -f $keyring && -r $keyring ]] || die "cannot read the keyring '$keyring'"
    [[ -s $keyring ]] || die "the keyring '$keyring' is empty"
fi

stamp=$prefix/.rebirth-caffe
work=$prefix/.work
log=$work/log

# ---------------------------------------------------------------- is there anything to do?

stamp_value() { sed -n "s/^$1=//p" "$stamp"; }

leave_if_finished() {
    [[ -f $stamp ]] || return 0
    local has
    has=$(stamp_value arch)
    [[ $has == "$arch" ]] || die "'$prefix' holds a Caffe for $has, not $arch: name another directory"
    [[ $(stamp_value format) == "$STAMP_FORMAT" ]] ||
        die "'$prefix' was made by another version of this script: remove it and run again"
    say "Caffe $(stamp_value caffe) ($arch) is already in $prefix"
    exit 0
}

leave_if_finished

for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null ||
        die "$tool not found: this script unpacks Debian packages; install apt and dpkg, or build Caffe yourself (docs/caffe.md)"
done
for tool in flock xargs find; do
    command -v "$tool" >/dev/null || die "$tool not found (Debian packages util-linux and findutils)"
done

# ---------------------------------------------------------------- the directory and its lock

if [[ -e $prefix && ! -d $prefix ]]; then die "'$prefix' is in the way: it is not a directory"; fi
if [[ -d $prefix && ! -d $work ]]; then
    # Only the lock of an earlier run may be there; anything else is somebody's and is not touched.
    stranger=$(find "$prefix" -mindepth 1 -maxdepth 1 ! -name .lock -print -quit) || die "cannot read '$prefix'"
    [[ -z $stranger ]] || die "'$prefix' is not empty and holds no Caffe of this script: name another directory"
fi
mkdir -p -- "$prefix" 2>/dev/null || die "cannot create '$prefix': name a directory you may write to"
[[ -w $prefix ]] || die "cannot write to '$prefix': name another directory"

# A directory may be somebody else's: nothing that a link leads to is touched, and nothing is emptied.
for own in "$prefix/.lock" "$work"; do
    [[ ! -L $own ]] || die "'$own' is a link: remove it"
done
[[ ! -e $prefix/.lock || -f $prefix/.lock ]] || die "'$prefix/.lock' is no file: remove it"
exec 9>>"$prefix/.lock"
if ! flock -n 9; then
    say "another run is busy in $prefix; waiting for it"
    flock 9
fi
leave_if_finished
mkdir -p -- "$work"
: >"$log"

# ---------------------------------------------------------------- running commands

child='' link=''

stop_child() {
    if [[ -n $child ]]; then kill "$child" 2>/dev/null || true; fi
    child=''
}
on_exit() {
    stop_child
    if [[ -n $link ]]; then rm -rf -- "$link"; fi
}
on_signal() {
    stop_child
    printf '\ninstall_caffe.sh: interrupted; run it again and it goes on from here\n' >&2
    exit "$1"
}
trap on_exit EXIT
trap 'on_signal 130' INT
trap 'on_signal 143' TERM HUP
trap 'die "line $LINENO failed unexpectedly; details in $log"' ERR

# Runs a command with its output in the log; in the background, so that a signal ends it at once.
logged() {
    local status=0
    "$@" >>"$log" 2>&1 </dev/null &
    child=$!
    wait "$child" || status=$?
    child=''
    return "$status"
}

# The line of the log that says most: the reason for a fetch that failed, else apt's last error.
last_error() {
    local line
    line=$(grep -m 1 -E 'Could not|Unable to connect|Connection (failed|timed out|refused)|Temporary failure|Hash Sum|Size mismatch' "$log" ||
        grep -E '^(E|W|Err):' "$log" | tail -n 1 || tail -n 1 "$log")
    printf '%s\n' "$line" | sed -E 's/^ *((E|W|Err): *)?//' | cut -c 1-160
}

die_if_disk_full() {
    if grep -qE "No space left on device|don't have enough free space|Disk quota exceeded" "$log"; then
        die "the disk is full: '$prefix' needs $((NEEDED_KB / 1000)) MB; make room and run again, it goes on from here"
    fi
}

# ---------------------------------------------------------------- the machine's own mirror

# apt itself reads the machine's sources, so one-line and deb822 files, mirror lists and options are all understood;
# it prints what an update would fetch, which works for any user and before any update was run. Suites outside Debian's
# own names (security, vendors' repositories) are passed over, and a repository of somebody else's that borrows such a
# name has no valid signature of Debian's, so it fails below. Addresses that end as Debian's do come first.
machine_mirrors() {
    apt-get update --print-uris 2>>"$log" </dev/null |
        sed -nE "s#^'(.*)/dists/(buster|bullseye|bookworm|trixie|forky|duke|sid|oldoldstable|oldstable|stable|testing|unstable)/main/binary-[^/]*/Packages.*#\1#p" |
        awk '!/^cdrom:/ && !seen[$0]++ { print ($0 ~ /\/debian\/?$/) ? 1 : 2, $0 }' |
        sort -s -n -k 1,1 | cut -d' ' -f2- || true
}

# ---------------------------------------------------------------- the private apt tree

# apt splits several of its settings at spaces; where the path has characters that could hurt, it sees a plain link.
tree=$work
if [[ $work == *[!A-Za-z0-9/._+-]* ]]; then
    base=${TMPDIR:-/tmp}
    if [[ $base == *[!A-Za-z0-9/._+-]* ]]; then base=/tmp; fi
    link=$(mktemp -d "$base/rebirth-caffe.XXXXXX") || die "cannot make a directory in $base"
    ln -s -- "$work" "$link/work"
    tree=$link/work
fi

prepare_apt() { # MIRROR KEYRING
    local key=keyring.gpg
    if head -c 64 -- "$2" | grep -aq -e '-----BEGIN PGP'; then key=keyring.asc; fi  # apt goes by the extension
    mkdir -p -- "$work"/{archives,lists}/partial "$work/etc"
    rm -f -- "$work"/keyring.*
    cat -- "$2" >"$work/$key"
    : >"$work/status"
    # check-valid-until=no, for this one source: the suite is old and frozen, and copies of it in archives are
    # served with the dates of their day. Nothing newer can be withheld from us, so the date protects nothing here;
    # the signature is checked all the same.
    printf 'deb [arch=%s target=Packages check-valid-until=no signed-by=%s/%s] %s %s main\n' \
        "$arch" "$tree" "$key" "$1" "$SUITE" >"$work/etc/sources.list"
    # The machine's apt.conf stays in force (proxies, credentials), but what would reach into the system, pull other
    # suites, or run its hooks is set aside. Read last, hence with -c rather than APT_CONFIG.
    cat >"$work/etc/apt.conf" <<CONF
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
APT::Sandbox::User "root"; // a user named _apt could not write below somebody's home
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "$tree";
Dir::State::lists "$tree/lists";
Dir::State::status "$tree/status";
Dir::State::extended_states "$tree/extended_states";
Dir::Cache "$tree";
Dir::Cache::archives "$tree/archives";
Dir::Etc::sourcelist "$tree/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Binary::apt-get::APT::Keep-Downloaded-Packages "true";
APT::Keep-Downloaded-Packages "true";
CONF
}

private_apt() { logged apt-get -q -c "$tree/etc/apt.conf" "$@"; }

# Says in the variable `why` what kept apt from reading the mirror's index.
update_index() { # MIRROR KEYRING
    local status=0
    prepare_apt "$1" "$2"
    : >"$log"
    private_apt update || status=$?
    if [[ $status -eq 0 ]] && [[ -n $(find "$work/lists" -maxdepth 1 -name '*_Packages*' -print -quit) ]] &&
        ! grep -qE '^Err:' "$log"; then  # apt exits 0 where it only could not connect
        return 0
    fi
    die_if_disk_full
    if grep -qE 'NO_PUBKEY|BADSIG|EXPKEYSIG|EXPSIG|REVKEYSIG|GPG error|OpenPGP signature|not signed|unsupported filetype|Sub-process .*(gpgv|sqv)' "$log"; then
        why="signature check failed: the $SUITE index of $1 is not signed with a key of '$2'"
    elif grep -qE '404 |does not have a Release file|no longer has a Release file' "$log"; then
        why="$1 does not carry Debian $SUITE: give a mirror or an archive that does, with --mirror URL"
    else
        why="cannot reach the mirror $1 ($(last_error)): check the network, or give another with --mirror URL"
    fi
    return 1
}

debian_keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp,asc} /usr/share/keyrings/debian-archive-bullseye-stable.gpg; do
        if [[ -s $file ]]; then printf '%s\n' "$file"; return; fi
    done
}

# ---------------------------------------------------------------- the phases

download() {
    local mirrors=() first='' candidate='' found='' why='' status=0
    local keys='install the package debian-archive-keyring (Ubuntu has it too), or give its file with --keyring FILE'
    if [[ -z $keyring ]]; then keyring=$(debian_keyring); fi
    if [[ -n $mirror ]]; then
        mirrors=("$mirror")
    else
        mapfile -t mirrors < <(machine_mirrors)
        [[ ${#mirrors[@]} -gt 0 ]] ||
            die "this machine's apt sources name no Debian mirror: give one that carries $SUITE with --mirror URL$([[ -n $keyring ]] || echo "; for its keys $keys")"
    fi
    [[ -n $keyring ]] || die "no Debian archive keyring here: $keys"
    for candidate in "${mirrors[@]}"; do
        say "index of Debian $SUITE ($arch) from $candidate"
        if update_index "$candidate" "$keyring"; then found=$candidate; break; fi
        first=${first:-$why}
    done
    [[ -n $found ]] || die "$first"

    say "download of Caffe and what it needs (165 MB)"
    private_apt -y -d --no-install-recommends install "${PACKAGES[@]}" || status=$?
    if [[ $status -ne 0 ]]; then
        die_if_disk_full
        if grep -qE 'Hash Sum mismatch|Size mismatch' "$log"; then
            die "the mirror sent damaged packages ($(last_error)); run again, it goes on from here"
        fi
        if grep -qE 'Unable to locate package|has no installation candidate|unmet dependencies' "$log"; then
            die "the mirror's $SUITE lacks a package ($(last_error)): give another with --mirror URL"
        fi
        die "download failed ($(last_error)); run again, it goes on from here"
    fi
    : >"$work/downloaded"
}

# One package; its mark is set last, so an interrupted one is unpacked again.
# shellcheck disable=SC2016
unpack_one='dpkg-deb -x "$2" "$1/root" && : >"$1/done/${2##*/}"'

unpack() {
    local status=0 deb todo=()
    mkdir -p -- "$work/root" "$work/done"
    for deb in "$work"/archives/*.deb; do
        if [[ ! -e $work/done/${deb##*/} ]]; then todo+=("$deb"); fi
    done
    say "unpack: ${#todo[@]} packages"
    printf '%s\0' ${todo[@]+"${todo[@]}"} >"$work/todo"
    if [[ ${#todo[@]} -gt 0 ]]; then
        logged xargs -0 -n 1 -P 2 -a "$work/todo" sh -c "$unpack_one" sh "$work" || status=$?
    fi
    if [[ $status -ne 0 ]]; then
        die_if_disk_full
        die "unpacking failed ($(tail -n 1 "$log" | cut -c 1-200)); run again, it goes on from here"
    fi
    # Nothing here is ever configured or run with rights of its own, least of all old setuid programs.
    find "$work/root" -xdev -type f -perm /6000 -exec chmod ug-s {} +
    # The wrappers' directory holds the wrappers alone: Debian's shells and tools must not get on anybody's PATH.
    rm -rf -- "$work/root/bin" "$work/root/sbin"
    write_wrappers "$work/root"
    : >"$work/unpacked"
}

write_wrappers() { # ROOT
    mkdir -p -- "$1/bin"
    write_wrapper "$1/bin/caffe" usr/bin/caffe
    # -E and -s: the caller's PYTHONHOME, PYTHONPATH and ~/.local are for another Python. This one finds its library
    # beside itself, so no such variable is set either, and what it starts inherits a clean environment.
    write_wrapper "$1/bin/python" usr/bin/python3.9 -E -s
    # sitecustomize: programs started through sys.executable must come through the wrapper, too.
    rm -f -- "$1/usr/lib/python3.9/sitecustomize.py"
    cat >"$1/usr/lib/python3.9/sitecustomize.py" <<'PY'
"""Written by install_caffe.sh: points at the wrapper, and adds the modules of Python layers."""
import os
import sys

_wrapper = os.path.join(os.path.dirname(sys.prefix), "bin", "python")
if os.path.exists(_wrapper):
    sys.executable = _wrapper
for _path in os.environ.get("REBIRTH_CAFFE_PYTHONPATH", "").split(os.pathsep):
    if _path:
        sys.path.append(_path)
PY
}

write_wrapper() { # FILE PROGRAM [ARGUMENT...]
    local file=$1 program=$2 wider=''
    shift 2
    # Most 64-bit ARM processors run 32-bit programs as well; the kernel refuses this personality where they do not.
    # shellcheck disable=SC2016
    if [[ $arch == armhf ]]; then
        wider='case $machine in aarch64 | arm64) if setarch linux32 true 2>/dev/null; then machine=armv8l; fi ;; esac'
    fi
    {
        cat <<'HEAD'
#!/bin/sh
# Written by install_caffe.sh: starts a program of this directory with the C library it was built with.
self=$0
case $self in */*) ;; *) self=$(command -v -- "$self") ;; esac
while [ -L "$self" ]; do
    target=$(readlink -- "$self")
    case $target in /*) self=$target ;; *) self=${self%/*}/$target ;; esac
done
root=$(CDPATH='' cd -- "${self%/*}/.." && pwd -P) || exit 127
case $root in *[:\;\$]*) echo "${0##*/}: the directory must not hold ':', ';' or '\$': $root" >&2; exit 127 ;; esac
unset LD_PRELOAD LD_AUDIT  # the machine's libraries do not fit this C library
HEAD
        cat <<BODY
triple=$triple
lib=\$root/lib/\$triple
usr=\$root/usr/lib/\$triple
runner=
machine=\$(uname -m)
$wider
case \$machine in
    $natives) ;;
    *)
        runner=\$(command -v qemu-$qemu-static || command -v qemu-$qemu) || {
            echo "\${0##*/}: this Caffe is for $arch: install qemu-user (Debian: qemu-user-static) to run it here" >&2
            exit 126
        } ;;
esac
exec \${runner:+"\$runner"} "\$lib/ld-2.31.so" --inhibit-cache \\
    --library-path "\$root/usr/lib:\$usr/openblas-pthread:\$usr:\$lib:\$usr/blas:\$usr/lapack" \\
    "\$root/$program"${*:+ $*} "\$@"
BODY
    } >"$file"
    chmod 755 -- "$file"
}

package_version() { # NAME
    local file
    file=$(find "$work/archives" -maxdepth 1 -name "$1_*.deb" -print -quit)
    file=${file##*/}
    file=${file#*_}
    file=${file%_*}
    printf '%s\n' "${file/\%3a/:}"
}

move_into_place() {
    local entry name
    for entry in "$work"/root/*; do
        name=${entry##*/}
        if [[ $name != bin && -e $entry ]]; then mv -T -- "$entry" "$prefix/$name"; fi
    done
    # Last: whoever finds bin/caffe finds all that it needs.
    if [[ -d $work/root/bin ]]; then mv -T -- "$work/root/bin" "$prefix/bin"; fi
}

check() {
    local answer
    if [[ $arch != "$own_arch" ]] && ! command -v "qemu-$qemu-static" "qemu-$qemu" >/dev/null; then
        say "not tried out: running $arch here needs qemu-user (Debian: qemu-user-static)"
        return
    fi
    say "check: caffe --version, import caffe"
    # Told to log to stderr, it leaves no log file in the machine's /tmp.
    answer=$(GLOG_logtostderr=1 "$prefix/bin/caffe" --version 2>&1 </dev/null) ||
        die "Caffe is unpacked but does not start: $(tail -n 1 <<<"$answer" | cut -c 1-200)"
    # Importing also leaves the compiled modules behind, which a later user may not be allowed to write.
    answer=$("$prefix/bin/python" -c 'import caffe; print(len(caffe.layer_type_list()), "layer types")' 2>&1 </dev/null) ||
        die "pycaffe is unpacked but does not import: $(tail -n 1 <<<"$answer" | cut -c 1-200)"
}

have_kb=$(du -sk -- "$work" | cut -f 1)
free_kb=$(df -k --output=avail -- "$work" | tail -n 1)
if ((free_kb + have_kb < NEEDED_KB)) && [[ ! -e $work/unpacked ]]; then
    die "the disk is too full: '$prefix' needs $((NEEDED_KB / 1000)) MB, $((free_kb / 1000)) MB are free"
fi

if [[ ! -e $work/downloaded ]]; then download; fi
if [[ ! -e $work/unpacked ]]; then unpack; fi
move_into_place
check
version=$(package_version caffe)
packages=$(find "$work/archives" -maxdepth 1 -name '*.deb' | wc -l)
cat >"$work/stamp" <<STAMP
format=$STAMP_FORMAT
arch=$arch
suite=$SUITE
caffe=$version
pycaffe=$(package_version python3-caffe)
openblas=$(package_version libopenblas0-pthread)
python=$(package_version python3.9)
packages=$packages
STAMP
mv -- "$work/stamp" "$stamp"
rm -rf -- "$work"
say "Caffe $version ($arch) is in $prefix"
