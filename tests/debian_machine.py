"""A machine on which `install_caffe.sh` runs: its own PATH, home and, if wanted, a made-up apt and dpkg."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deeprebirth_caffe.engines.caffe.install import SCRIPT

MIRROR = "http://mirror.invalid/debian"

# What the script may use besides apt-get and dpkg-deb. A PATH with these alone hides the machine's own apt.
TOOLS = (
    *(
        "awk",
        "bash",
        "cat",
        "chmod",
        "cut",
        "dirname",
        "df",
        "du",
        "env",
        "find",
        "flock",
        "grep",
        "head",
        "id",
    ),
    *(
        "ln",
        "ls",
        "mkdir",
        "mktemp",
        "mv",
        "readlink",
        "rm",
        "sed",
        "sh",
        "sleep",
        "sort",
        "tail",
        "tar",
        "touch",
    ),
    *("tr", "uname", "wc", "xargs"),
)

# Behaves like apt-get as far as the script looks: `update --print-uris` lists what it would fetch, `update`
# leaves an index, `install` leaves packages. FAKE_* variables make it fail as the real one does.
FAKE_APT = r"""#!/bin/sh
echo "$@" >>"$FAKE_LOG"
config=
[ "$1" = -q ] && shift
if [ "$1" = -c ]; then config=$2; shift 2; fi
state=$(sed -n 's/^Dir::State "\(.*\)";/\1/p' "$config" 2>/dev/null)
for word in "$@"; do
    case $word in
    update)
        case "$*" in *--print-uris*) cat "$FAKE_SOURCES"; exit 0 ;; esac
        source_line=$(cat "$state/etc/sources.list")
        echo "$source_line" >>"$FAKE_LOG"
        case $source_line in *"${FAKE_BAD_MIRROR:-none}"*)
            echo 'Err:1 x'; echo '  404  Not Found'; exit 100 ;; esac
        if [ -n "$FAKE_UPDATE" ]; then printf '%b\n' "$FAKE_UPDATE" >&2; exit "${FAKE_UPDATE_RC:-100}"; fi
        : >"$state/lists/x_main_binary-amd64_Packages"; exit 0 ;;
    install)
        if [ -n "$FAKE_INSTALL" ]; then printf '%b\n' "$FAKE_INSTALL" >&2; exit 100; fi
        [ -n "$FAKE_SLOW" ] && exec sleep 60
        for name in caffe_1.0.0+x_amd64 python3-caffe_1.0.0+x_amd64 libopenblas0-pthread_0.3_amd64 \
            python3.9_3.9.2-1_amd64; do : >"$state/archives/$name.deb"; done
        exit 0 ;;
    esac
done
exit 100
"""

# "Unpacks" programs that answer what the script's check asks.
FAKE_DPKG = r"""#!/bin/sh
[ -n "$FAKE_FULL" ] && { echo 'dpkg-deb: error: cannot write: No space left on device' >&2; exit 2; }
for triple in x86_64-linux-gnu aarch64-linux-gnu arm-linux-gnueabihf; do
    mkdir -p "$3/lib/$triple"
    printf '#!/bin/sh\n[ "$1" = --inhibit-cache ] && shift 3\nexec sh "$@"\n' >"$3/lib/$triple/ld-2.31.so"
    chmod 755 "$3/lib/$triple/ld-2.31.so"
done
mkdir -p "$3/usr/bin" "$3/usr/lib/python3.9" "$3/bin"
echo 'for a in "$@"; do echo "caffe got <$a>"; done' >"$3/usr/bin/caffe"
echo 'for a in "$@"; do echo "python got <$a>"; done' >"$3/usr/bin/python3.9"
: >"$3/bin/stray-shell"
"""


class Machine:
    """A machine whose apt is made up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            if found:
                (self.bin / tool).symlink_to(found)
        self.keyring = root / "keyring.gpg"
        self.keyring.write_bytes(b"\x99key")
        self.sources = root / "sources"
        self.repositories(f"{MIRROR} bookworm main")
        self.calls = root / "calls"
        self.calls.write_text("")
        self.env = {
            "PATH": str(self.bin),
            "HOME": str(root / "home"),
            "FAKE_LOG": str(self.calls),
            "FAKE_SOURCES": str(self.sources),
        }

    def repositories(self, *each: str) -> None:
        """What the machine's sources name: address, suite and component."""
        lines = []
        for uri, suite, component in (line.rsplit(" ", 2) for line in each):
            for name in ("InRelease", f"{component}/binary-amd64/Packages.xz"):
                lines.append(f"'{uri}/dists/{suite}/{name}' some_name 0 \n")
        self.sources.write_text("".join(lines))

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def with_apt(self) -> Machine:
        self.program("apt-get", FAKE_APT)
        self.program("dpkg-deb", FAKE_DPKG)
        return self

    def run(self, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), *map(str, arguments)],
            env={**self.env, **env},
            cwd=self.root,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )


def bare_machine(root: Path) -> Machine:
    """A machine without apt; skips the test where this one has no bash or flock."""
    if shutil.which("flock") is None or shutil.which("bash") is None:
        pytest.skip("needs bash and flock")
    return Machine(root)
