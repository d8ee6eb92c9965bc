"""install_caffe.sh up to the network: its arguments, its refusals, and its phases against a made-up apt."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from debian_machine import MIRROR, Machine, bare_machine

from deeprebirth_caffe.engines.caffe.arch import ARCHES, own_arch
from deeprebirth_caffe.engines.caffe.install import SCRIPT


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """A machine without apt."""
    return bare_machine(tmp_path)


@pytest.fixture
def debian(bare: Machine) -> Machine:
    """A machine with a made-up apt."""
    return bare.with_apt()


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("install_caffe.sh: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frob"], "unknown option --frob"),
        (["-x"], "unknown option -x"),
        (["--arch"], "--arch needs a value"),
        (["--arch", ""], "--arch needs a value"),
        (["--mirror="], "--mirror needs a value"),
        (["--arch", "mips"], "unknown architecture 'mips'"),
        (["a", "b"], "one PREFIX at most"),
        (["a", "--", "b"], "one PREFIX at most"),
        ([""], "PREFIX is empty"),
        (["--mirror", "somewhere"], "--mirror wants a URL"),
        (["--mirror", "http://a b"], "must not hold spaces"),
        (["with:colon"], "must not hold"),
        (["with$dollar"], "must not hold"),
    ],
)
def test_wrong_usage(bare: Machine, arguments: list[str], words: str) -> None:
    done = bare.run(*arguments)
    assert done.returncode == 2
    assert words in one_line(done)
    assert done.stdout == ""


def test_help(bare: Machine) -> None:
    done = bare.run("--help")
    assert done.returncode == 0
    for word in ("PREFIX", "--arch", "--mirror", "--keyring", "Exit status"):
        assert word in done.stdout


def test_without_apt(bare: Machine) -> None:
    done = bare.run("p")
    assert done.returncode == 1
    assert "apt-get not found" in one_line(done)
    assert not (bare.root / "p").exists()
    bare.program("apt-get", "#!/bin/sh\n")
    assert "dpkg-deb not found" in one_line(bare.run("p"))


def test_a_finished_directory_needs_no_apt(bare: Machine) -> None:
    prefix = bare.root / "p"
    prefix.mkdir()
    (prefix / ".rebirth-caffe").write_text("format=1\narch=amd64\ncaffe=1.0.0-8\n")
    done = bare.run(prefix, "--arch", "amd64")
    assert (done.returncode, done.stderr) == (0, "")
    assert "already" in done.stdout
    other = bare.run(prefix, "--arch", "arm64")
    assert other.returncode == 1
    assert "holds a Caffe for amd64" in one_line(other)


def test_somebody_elses_directory_is_left_alone(debian: Machine) -> None:
    (debian.root / "p").mkdir()
    (debian.root / "p" / "thesis.tex").write_text("")
    done = debian.run("p")
    assert done.returncode == 1
    assert "is not empty" in one_line(done)
    assert [p.name for p in (debian.root / "p").iterdir()] == ["thesis.tex"]
    assert "not a directory" in one_line(debian.run("keyring.gpg"))


def test_no_mirror(debian: Machine) -> None:
    # Suites and components that are not Debian's release, and a disc.
    debian.repositories(
        "http://u.invalid/ubuntu noble main",
        "http://d.invalid/debian-security bookworm-security main",
        "http://d.invalid/debian bookworm contrib",
        "cdrom://[Debian GNU/Linux 12] bookworm main",
    )
    done = debian.run("p", "--keyring", debian.keyring)
    assert done.returncode == 1
    assert one_line(done).endswith("name no Debian mirror: give one that carries bullseye with --mirror URL")


@pytest.mark.skipif(any(Path("/usr/share/keyrings").glob("debian-archive-*")), reason="Debian's keyring is here")
def test_no_mirror_and_no_keyring(debian: Machine) -> None:
    debian.repositories("http://u.invalid/ubuntu noble main")
    said = one_line(debian.run("p"))
    assert "--mirror URL; for its keys install the package debian-archive-keyring" in said
    assert "no Debian archive keyring here" in one_line(debian.run("p", "--mirror", MIRROR))


def test_debians_own_mirror_goes_first(debian: Machine) -> None:
    debian.repositories(
        "http://vendor.invalid/apt bookworm main",
        "http://first.invalid/debian stable main",
        "http://second.invalid/pub/debian trixie main",
    )
    done = debian.run("p", "--keyring", debian.keyring, FAKE_BAD_MIRROR="first.invalid")
    assert done.returncode == 0, done.stderr
    tried = [line.split()[-3] for line in debian.calls.read_text().splitlines() if line.startswith("deb ")]
    assert tried == ["http://first.invalid/debian", "http://second.invalid/pub/debian"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Err:1 m\\n  Could not resolve 'mirror.invalid'", "cannot reach the mirror"),
        (
            "W: GPG error: m: NO_PUBKEY 0E98404D386FA1D9\\nE: The repository 'm' is not signed.",
            "signature check",
        ),
        (
            "E: The repository 'm bullseye Release' does not have a Release file.",
            "does not carry Debian bullseye",
        ),
        ("E: Write error - write (28: No space left on device)", "disk is full"),
    ],
)
def test_index_failures(debian: Machine, said: str, words: str) -> None:
    done = debian.run("p", "--keyring", debian.keyring, FAKE_UPDATE=said)
    assert done.returncode == 1
    assert words in one_line(done)
    assert not (debian.root / "p" / ".rebirth-caffe").exists()


def test_apt_that_exits_0_without_an_index(debian: Machine) -> None:
    done = debian.run("p", "--keyring", debian.keyring, FAKE_UPDATE="Err:1 Could not connect", FAKE_UPDATE_RC="0")
    assert done.returncode == 1
    assert "cannot reach the mirror" in one_line(done)


def test_keyring_errors(debian: Machine) -> None:
    assert "cannot read the keyring" in one_line(debian.run("p", "--keyring", "nowhere"))
    (debian.root / "empty").write_text("")
    assert "is empty" in one_line(debian.run("p", "--keyring", "empty"))


def test_signatures_are_checked(debian: Machine) -> None:
    done = debian.run("my prefix", "--keyring", debian.keyring, FAKE_UPDATE="E: stop here")
    assert done.returncode == 1
    work = debian.root / "my prefix" / ".work"
    source = (work / "etc" / "sources.list").read_text()
    config = (work / "etc" / "apt.conf").read_text()
    assert "signed-by=" in source
    assert "trusted=yes" not in source
    assert 'APT::Get::AllowUnauthenticated "false"' in config
    assert 'AllowInsecureRepositories "false"' in config
    # Where the path holds spaces, apt is given a plain link to it.
    assert "my prefix" not in source


@pytest.mark.parametrize("name", ["p", "with a \"space\" and 'quotes'"])
def test_the_whole_way(debian: Machine, name: str) -> None:
    prefix = debian.root / name
    first = debian.run(name, "--keyring", debian.keyring)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert "1.0.0+x" in first.stdout
    stamp = (prefix / ".rebirth-caffe").read_text().splitlines()
    assert "caffe=1.0.0+x" in stamp
    assert "python=3.9.2-1" in stamp
    assert not (prefix / ".work").exists()
    assert {p.name for p in (prefix / "bin").iterdir()} == {"caffe", "python"}  # nobody's shell comes along
    calls = debian.calls.read_text()
    again = debian.run(name)
    assert again.returncode == 0
    assert debian.calls.read_text() == calls
    # The wrappers hand every argument on as it is, from wherever they are reached.
    link = debian.root / "link"
    link.symlink_to(prefix / "bin" / "caffe")
    for path in (prefix / "bin" / "caffe", link):
        done = subprocess.run([path, "a b", "$c", ""], text=True, capture_output=True, check=True)
        assert done.stdout == "caffe got <a b>\ncaffe got <$c>\ncaffe got <>\n"
    done = subprocess.run([prefix / "bin/python", "-c", "x"], text=True, capture_output=True, check=True)
    assert done.stdout.split("\n")[:4] == [f"python got <{a}>" for a in ("-E", "-s", "-c", "x")]


def test_a_full_disk_while_unpacking_then_room(debian: Machine) -> None:
    full = debian.run("p", "--keyring", debian.keyring, FAKE_FULL="1")
    assert full.returncode == 1
    assert "disk is full" in one_line(full)
    assert not (debian.root / "p" / "bin").exists()
    # The second run does not download again.
    debian.calls.write_text("")
    done = debian.run("p", "--keyring", debian.keyring)
    assert done.returncode == 0, done.stderr
    assert debian.calls.read_text() == ""


def test_a_failed_download_can_go_on(debian: Machine) -> None:
    failed = debian.run("p", "--keyring", debian.keyring, FAKE_INSTALL="E: Failed to fetch x  Connection timed out")
    assert failed.returncode == 1
    assert "it goes on from here" in one_line(failed)
    assert debian.run("p", "--keyring", debian.keyring).returncode == 0


def test_interrupted(debian: Machine) -> None:
    command = ["bash", str(SCRIPT), "p", "--keyring", str(debian.keyring)]
    process = subprocess.Popen(
        command,
        env={**debian.env, "FAKE_SLOW": "1"},
        cwd=debian.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while "install" not in debian.calls.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - begin < 10  # it does not wait for the download
    assert process.returncode == 143
    assert "run it again" in errors
    assert debian.run("p", "--keyring", debian.keyring).returncode == 0


@pytest.mark.parametrize("other", [arch.debian for arch in ARCHES if arch.debian != own_arch()])
def test_another_architecture(debian: Machine, other: str) -> None:
    done = debian.run("--keyring", debian.keyring, "--arch", other)
    assert done.returncode == 0, done.stderr
    assert "not tried out" in done.stdout
    prefix = debian.root / f"home/.local/share/rebirth/caffe-{other}"
    assert f"arch={other}" in (prefix / ".rebirth-caffe").read_text()
    failed = subprocess.run([prefix / "bin/caffe"], env=debian.env, text=True, capture_output=True, check=False)
    assert failed.returncode == 126
    assert "install qemu-user" in failed.stderr
    # With an emulator on PATH, the wrapper starts it.
    processor = next(arch.machine for arch in ARCHES if arch.debian == other)
    debian.program(f"qemu-{processor}-static", '#!/bin/sh\nexec "$@"\n')
    done = subprocess.run([prefix / "bin/caffe", "hello"], env=debian.env, text=True, capture_output=True, check=True)
    assert done.stdout == "caffe got <hello>\n"


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs the real apt-get")
@pytest.mark.parametrize("style", ["one-line", "deb822"])
def test_the_real_apt_reads_both_kinds_of_sources(bare: Machine, style: str) -> None:
    etc = bare.root / "etc"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "parts").mkdir()
    if style == "one-line":
        (etc / "sources.list").write_text(
            "deb [arch=amd64] http://vendor.invalid/apt nodistro main\n"
            "deb http://mirror.invalid/debian bookworm main contrib\n"
        )
    else:
        (etc / "sources.list.d" / "debian.sources").write_text(
            "Types: deb\nURIs: http://mirror.invalid/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n"
        )
    (bare.root / "apt.conf").write_text(
        f'Dir::Etc "{etc}";\nDir::Etc::parts "{etc}/parts";\nDir::State "{bare.root}/state";\n'
        f'Dir::Cache "{bare.root}/cache";\n'
    )
    (bare.root / "state/lists/partial").mkdir(parents=True)  # no update was ever run here
    (bare.root / "cache").mkdir()
    real = shutil.which("apt-get")
    # The real one reads the sources; nothing is fetched.
    bare.with_apt().program(
        "apt-get",
        "#!/bin/sh\ncase $* in *--print-uris*)"
        f' APT_CONFIG="{bare.root}/apt.conf" exec "{real}" "$@" ;; esac\n'
        "echo 'E: stop here' >&2; exit 100\n",
    )
    done = bare.run("p", "--keyring", bare.keyring)
    assert f"from {MIRROR}\n" in done.stdout
    assert "vendor" not in done.stdout + done.stderr
