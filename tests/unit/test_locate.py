"""Discovery of Caffe, on made-up machines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deeprebirth_caffe.engines.caffe import asking
from deeprebirth_caffe.engines.caffe.asking import Answer
from deeprebirth_caffe.engines.caffe.locate import CaffeNotFoundError, default_prefix, find_caffe

STAMP = "format=1\narch=amd64\nsuite=bullseye\ncaffe=1.0.0+git-8\npackages=222\n"


def program(path: Path, text: str = "#!/bin/sh\nexit 1\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def prefix(path: Path) -> Path:
    program(path / "bin" / "caffe")
    program(path / "bin" / "python")
    (path / ".rebirth-caffe").write_text(STAMP)
    return path


def machine(tmp_path: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the real machine is seen but /bin's shell."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin"), **more}


def test_nothing_found_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(CaffeNotFoundError) as caught:
        find_caffe(environ=machine(tmp_path))
    assert "rebirth caffe install" in str(caught.value)
    assert "--caffe" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_default_prefix_follows_the_environment(tmp_path: Path) -> None:
    env = machine(tmp_path)
    assert default_prefix(environ=env) == tmp_path / "home/.local/share/rebirth/caffe"
    assert default_prefix(environ={**env, "XDG_DATA_HOME": "/data"}) == Path("/data/rebirth/caffe")
    assert default_prefix(environ={**env, "REBIRTH_CAFFE_PREFIX": "/p q"}) == Path("/p q")


def test_foreign_architecture_has_its_own_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    env = {"REBIRTH_CAFFE_PREFIX": "/opt/c/"}
    assert default_prefix("arm64", env) == Path("/opt/c-arm64")
    assert default_prefix("amd64", env) == Path("/opt/c")


def test_the_default_prefix_is_found_by_its_stamp(tmp_path: Path) -> None:
    home = prefix(tmp_path / "home/.local/share/rebirth/caffe")
    found = find_caffe(environ=machine(tmp_path))
    assert found.prefix == home
    assert found.binary == home / "bin/caffe"
    assert found.python == home / "bin/python"
    assert (found.version, found.arch) == ("1.0.0+git-8", "amd64")


def test_an_unfinished_prefix_is_not_a_caffe(tmp_path: Path) -> None:
    home = tmp_path / "home/.local/share/rebirth/caffe"
    program(home / "bin" / "caffe")
    (home / ".work").mkdir()
    with pytest.raises(CaffeNotFoundError, match="unfinished"):
        find_caffe(environ=machine(tmp_path))
    with pytest.raises(CaffeNotFoundError, match="unfinished"):
        find_caffe(home, environ=machine(tmp_path))


def test_order_of_the_places(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "caffe")
    env = machine(tmp_path)
    assert find_caffe(environ=env).where == "PATH"
    prefix(tmp_path / "home/.local/share/rebirth/caffe")
    assert find_caffe(environ=env).where == "the default directory"
    env["REBIRTH_CAFFE"] = str(prefix(tmp_path / "second"))
    assert find_caffe(environ=env).where == "$REBIRTH_CAFFE"
    third = prefix(tmp_path / "third")
    assert find_caffe(third, environ=env).prefix == third


@pytest.mark.parametrize("name", ["caffe", "python"])
def test_a_wrapper_means_its_prefix(tmp_path: Path, name: str) -> None:
    whole = prefix(tmp_path / "whole")
    link = tmp_path / "some-link"
    link.symlink_to(whole / "bin" / name)
    for path in (whole / "bin" / name, link):
        found = find_caffe(path, environ=machine(tmp_path))
        assert found.binary == whole / "bin/caffe"
        assert found.python == whole / "bin/python"


def test_what_is_named_must_be_right(tmp_path: Path) -> None:
    env = machine(tmp_path)
    prefix(tmp_path / "home/.local/share/rebirth/caffe")  # would be found, but something else was asked for
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    program(tmp_path / "python3.9")
    with pytest.raises(CaffeNotFoundError, match=r"--caffe: .*nowhere does not exist"):
        find_caffe(tmp_path / "nowhere", environ=env)
    with pytest.raises(CaffeNotFoundError, match="holds no Caffe"):
        find_caffe(tmp_path / "empty", environ=env)
    with pytest.raises(CaffeNotFoundError, match="not a program"):
        find_caffe(tmp_path / "file", environ=env)
    with pytest.raises(CaffeNotFoundError, match="has no pycaffe"):
        find_caffe(tmp_path / "python3.9", environ=env)
    with pytest.raises(CaffeNotFoundError, match="REBIRTH_CAFFE: "):
        find_caffe(environ={**env, "REBIRTH_CAFFE": str(tmp_path / "nowhere")})


def test_a_python_with_pycaffe_on_path(tmp_path: Path) -> None:
    package = tmp_path / "modules" / "caffe"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('must not be imported')")
    program(
        tmp_path / "bin" / "python3",
        f'#!/bin/sh\nPYTHONPATH="{tmp_path}/modules" exec "{sys.executable}" "$@"\n',
    )
    env = machine(tmp_path)
    with pytest.raises(CaffeNotFoundError):  # a package named caffe, but not the one
        find_caffe(environ=env)
    (package / "_caffe.cpython-39.so").write_text("")
    found = find_caffe(environ=env)
    assert found.python == tmp_path / "bin/python3"
    assert found.binary is None
    with pytest.raises(CaffeNotFoundError, match="no caffe program"):
        found.need_binary()


def test_a_build_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    binary = program(tree / "build/tools/caffe")
    (tree / "python/caffe").mkdir(parents=True)
    env = machine(tmp_path)
    with pytest.raises(CaffeNotFoundError, match="no pycaffe"):
        find_caffe(tree, environ=env).need_python()
    (tree / "python/caffe/_caffe.so").write_text("")
    python = program(tmp_path / "bin/python3")
    found = find_caffe(tree, environ=env)
    assert (found.binary, found.python, found.pythonpath) == (binary, python, (tree / "python",))


CAFFE = '#!/bin/sh\n[ "$1" = --version ] && echo caffe version 1.0.0\n'


def pycaffe(folder: Path, path: Path) -> Path:
    """A Python under any name that has pycaffe."""
    package = folder / "site" / "caffe"
    package.mkdir(parents=True, exist_ok=True)
    (package / "_caffe.so").write_text("")
    return program(path, f'#!/bin/sh\nPYTHONPATH="{folder}/site" exec "{sys.executable}" "$@"\n')


@pytest.mark.parametrize("name", ["python", "python3", "python3.9"])
def test_an_environment_with_its_own_python(tmp_path: Path, name: str) -> None:
    """Whatever of it is named, the other half is found beside it, before what PATH has."""
    binary = program(tmp_path / "env/bin/caffe", CAFFE)
    python = pycaffe(tmp_path, tmp_path / "env/bin/python")
    (tmp_path / "env/bin/python3").symlink_to(python)
    (tmp_path / "env/bin/python3.9").symlink_to(python)
    env = machine(tmp_path)
    pycaffe(tmp_path, tmp_path / "bin/python3")
    for path in (tmp_path / "env", tmp_path / "env/bin", binary, tmp_path / "env/bin" / name):
        found = find_caffe(path, environ=env)
        assert found.binary == binary
        assert found.python is not None and found.python.resolve() == python


def test_a_program_is_what_it_says_not_what_it_is_called(tmp_path: Path) -> None:
    env = machine(tmp_path)
    wrapper = pycaffe(tmp_path, tmp_path / "tools/run-pycaffe")
    assert find_caffe(wrapper, environ=env).python == wrapper
    renamed = program(tmp_path / "tools/caffe-cpu", CAFFE)
    found = find_caffe(renamed, environ=env)
    assert (found.binary, found.python) == (renamed, None)
    other = program(tmp_path / "tools/list", "#!/bin/sh\necho list 1.0\n")
    with pytest.raises(CaffeNotFoundError, match=r"list has no pycaffe .* and is no caffe program"):
        find_caffe(other, environ=env)


def test_a_python_without_pycaffe_beside_a_build(tmp_path: Path) -> None:
    """The Python of an environment, and the modules of the source tree that it lies in."""
    python = program(tmp_path / "tree/bin/python3", f'#!/bin/sh\nexec "{sys.executable}" -I "$@"\n')
    with pytest.raises(CaffeNotFoundError, match="has no pycaffe"):
        find_caffe(python, environ=machine(tmp_path))
    (tmp_path / "tree/python/caffe").mkdir(parents=True)
    (tmp_path / "tree/python/caffe/_caffe.so").write_text("")
    found = find_caffe(python, environ=machine(tmp_path))
    assert (found.python, found.pythonpath) == (python, (tmp_path / "tree/python",))


@pytest.mark.parametrize(
    "binary", ["distribute/bin/caffe.bin", "build/install/bin/caffe", ".build_release/tools/caffe"]
)
def test_other_builds(tmp_path: Path, binary: str) -> None:
    built = program(tmp_path / "tree" / binary, CAFFE)
    modules = built.parents[1] / "python"
    if "build_release" in binary:
        modules = tmp_path / "tree/python"
    (modules / "caffe").mkdir(parents=True)
    (modules / "caffe/_caffe.cpython-39-x86_64-linux-gnu.so").write_text("")
    env = machine(tmp_path)
    python = program(tmp_path / "bin/python3")
    for path in (tmp_path / "tree", built):
        found = find_caffe(path, environ=env)
        assert (found.binary, found.python, found.pythonpath) == (built, python, (modules,))


def test_the_system_s_python_beside_the_system_s_caffe(tmp_path: Path) -> None:
    """PATH names another Python first, as a virtual environment does."""
    binary = program(tmp_path / "usr/bin/caffe", CAFFE)
    python = pycaffe(tmp_path, tmp_path / "usr/bin/python3")
    program(tmp_path / "bin/python3", f'#!/bin/sh\nexec "{sys.executable}" -I "$@"\n')
    env = machine(tmp_path)
    env["PATH"] = f"{tmp_path}/bin:{tmp_path}/usr/bin"
    found = find_caffe(environ=env)
    assert (found.binary, found.python) == (binary, python)


def test_errors_name_what_was_tried(tmp_path: Path) -> None:
    binary = program(tmp_path / "some/bin/caffe", CAFFE)
    python = program(tmp_path / "some/bin/python", f'#!/bin/sh\nexec "{sys.executable}" -I "$@"\n')
    with pytest.raises(CaffeNotFoundError) as caught:
        find_caffe(binary, environ=machine(tmp_path)).need_python()
    assert str(python) in str(caught.value) and "PATH" in str(caught.value)
    alone = pycaffe(tmp_path, tmp_path / "alone/bin/python")
    with pytest.raises(CaffeNotFoundError, match=str(tmp_path / "alone/bin/caffe")):
        find_caffe(alone, environ=machine(tmp_path)).need_binary()


def test_programs_that_do_not_end_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_S", 0.2)
    env = {"PATH": "/usr/bin:/bin"}
    assert asking.ask(program(tmp_path / "talks", "#!/bin/sh\nwhile :; do echo caffe; done\n"), env) is Answer.SILENT
    assert asking.ask(program(tmp_path / "sleeps", "#!/bin/sh\nsleep 60\n"), env) is Answer.SILENT
    assert asking.ask(program(tmp_path / "reads", "#!/bin/sh\ncat\n"), env) is Answer.OTHER
    assert asking.ask(program(tmp_path / "broken", "\x7fELF"), env) is Answer.SILENT


def test_a_caffe_that_was_found_is_not_asked_again(tmp_path: Path) -> None:
    python = pycaffe(tmp_path, tmp_path / "counting")
    python.write_text(python.read_text().replace("\n", f'\necho >> "{tmp_path}/asked"\n', 1))
    for _ in range(3):
        assert find_caffe(python, environ=machine(tmp_path)).python == python
    assert (tmp_path / "asked").read_text() == "\n"


def test_importing_it_is_cheap() -> None:
    code = "import sys; import deeprebirth_caffe.engines.caffe.locate; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_home_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("~no-such-user/caffe", "~"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "expanduser", lambda _: _no_home())
            with pytest.raises(CaffeNotFoundError, match=f"--caffe: {tmp_path}/{name} does not exist"):
                find_caffe(name)
            with pytest.raises(CaffeNotFoundError, match="no Caffe found"):
                find_caffe(environ={"PATH": str(tmp_path)})


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")
