"""Help, version, start-up, and what only shows when `rebirth` runs as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import Cli, Everything, SmallNet, complaint

from deeprebirth_caffe import __version__
from deeprebirth_caffe.cli import COMMANDS

HEAVY = ("torch", "cv2", "lmdb", "plyvel", "h5py", "sklearn", "hypothesis")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(cli: Cli, command: str) -> None:
    for flag in ("--help", "-h"):
        result = cli(command, flag)
        assert result.code == 0 and not result.err
        assert result.out.startswith(f"Usage: rebirth {command} ")


def test_each_option_of_each_command_is_explained() -> None:
    import click

    from deeprebirth_caffe.cli import rebirth

    context = click.Context(rebirth)
    for name in COMMANDS:
        command = rebirth.get_command(context, name)
        assert command is not None
        for param in command.params:
            if isinstance(param, click.Option) and param.name != "phase":
                assert param.help, f"{name} {param.opts}"


def test_help_names_all_commands_and_the_exit_codes(cli: Cli) -> None:
    result = cli("--help")
    assert result.code == 0 and not result.err
    assert all(f"\n  {name} " in result.out for name in COMMANDS)
    assert "0 done, 1 failed, 2 usage, 3 refused" in result.out


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"rebirth, version {__version__}\n"


def test_as_a_module() -> None:
    words = [sys.executable, "-m", "deeprebirth_caffe", "--version"]
    assert (
        subprocess.run(words, capture_output=True, text=True, check=True).stdout == f"rebirth, version {__version__}\n"
    )


def test_without_a_command_the_help_goes_to_stderr(cli: Cli) -> None:
    result = cli()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: rebirth [OPTIONS] COMMAND")


def imported(process: Cli, *arguments: object) -> set[str]:
    """The modules that a command imports."""
    code = (
        "import sys\n"
        "from deeprebirth_caffe.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    result = process(*arguments, python=("-c", code))
    assert result.code == 0, result.err
    return set(result.err.split())


def test_help_imports_nothing_heavy(process: Cli) -> None:
    modules = imported(process, "--help")
    assert modules.isdisjoint({*HEAVY, "numpy", "google.protobuf", "rich", "deeprebirth_caffe.cli.convert"})


def test_convert_imports_nothing_heavy(process: Cli, net28: SmallNet) -> None:
    modules = imported(process, "convert", net28.deploy, "-o", "out")
    assert "numpy" in modules
    assert modules.isdisjoint(HEAVY)


def test_completion(process: Cli) -> None:
    env = {"_REBIRTH_COMPLETE": "bash_complete", "COMP_WORDS": "rebirth con", "COMP_CWORD": "1"}
    result = process(
        env=env, python=("-c", "import sys; sys.argv[0] = 'rebirth'\nfrom deeprebirth_caffe.cli import main\nmain()")
    )
    assert "convert" in result.out


def test_json_alone_on_stdout(process: Cli, net28: SmallNet) -> None:
    result = process("convert", net28.train_val, "--input-shape", net28.shape, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.data["version"] == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_is_utf8_whatever_the_terminal_speaks(process: Cli, net28: SmallNet, encoding: str) -> None:
    name = "n\N{RIGHTWARDS ARROW}t.prototxt"
    Path(net28.deploy).rename(name)
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    result = process("inspect", name, "--json", env=env)
    assert (result.code, result.err) == (0, "")
    assert result.data["net"] == name
    # Text for people shows what the terminal cannot as an escape, and goes on.
    result = process("convert", name, "-o", "out\N{RIGHTWARDS ARROW}", env=env)
    shown = r"\u2192" if encoding == "latin-1" else "\N{RIGHTWARDS ARROW}"  # click takes ascii for a mistake
    assert result.code == 0 and f"wrote out{shown}: n{shown}t.prototxt" in result.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert"], "Missing argument 'NET'; see rebirth convert --help"),
        (["frobnicate"], "there is no command 'frobnicate'; see rebirth --help"),
        (["convert", "net", "--frobnicate"], "No such option"),
        (["inspect", "nowhere.prototxt"], "'nowhere.prototxt' does not exist; see rebirth inspect --help"),
        (["zoo", "nonet"], "there is no net 'nonet' in the zoo; there are googlenet,"),
        (["deploy", __file__, "-o", "x"], "Missing option '-w' / '--weights'"),
        (["diff", __file__], "Missing argument 'B'"),
    ],
)
def test_usage_errors_are_one_line_and_2(process: Cli, arguments: list[str], said: str) -> None:
    assert said in complaint(process(*arguments), 2)


def test_a_reader_that_goes_away_is_no_failure(net28: SmallNet) -> None:
    command = [sys.executable, "-m", "deeprebirth_caffe.cli", "inspect", net28.deploy, "--json"]
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE) as running:
        os.close(write)
        _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_said(net28: SmallNet) -> None:
    command = [sys.executable, "-m", "deeprebirth_caffe.cli", "inspect", net28.deploy, "--json"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1


INTERRUPTED = """
import os, signal, sys
import deeprebirth_caffe.nets.rewriting as rewriting
from deeprebirth_caffe.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell would ignore it
def half(file, *_):
    file.write(b"x" * 100000)
    file.flush()
    os.kill(os.getpid(), signal.SIGINT)
rewriting.save_weights = half
main(sys.argv[1:])
"""


@pytest.mark.parametrize("there", [False, True])
def test_interrupt_in_the_middle_of_writing(process: Cli, net28: SmallNet, everything: Everything, there: bool) -> None:
    if there:
        Path("out").mkdir()
    before = everything()
    result = process("convert", net28.deploy, "-w", net28.weights, "-o", "out", python=("-c", INTERRUPTED))
    assert (result.code, result.out) == (130, "")
    assert result.err.splitlines()[-1].startswith("interrupted") and "Traceback" not in result.err
    assert everything() == before


EARLY = """
import os, signal, sys
from deeprebirth_caffe.start import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell would ignore it
number = int(sys.argv.pop(1))
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Finder())
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_modules_are_imported(process: Cli, number: int, code: int) -> None:
    result = process(int(number), "zoo", "list", python=("-c", EARLY))
    assert (result.code, result.out) == (
        code,
        "",
    ) and result.err == "interrupted; nothing half-written was left behind\n"


@pytest.mark.parametrize("stderr", ["closed", "full"])
def test_a_usage_error_that_nobody_hears(stderr: str) -> None:
    where = {"closed": ">&-", "full": "> /dev/full"}[stderr]
    command = f'"$0" -m deeprebirth_caffe inspect 2{where}'
    done = subprocess.run(["/bin/sh", "-c", command, sys.executable], check=False, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, b"")
