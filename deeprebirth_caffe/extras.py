"""The commands that install missing optional libraries.

They name the packages, not our extras: `pip install 'deeprebirth-caffe[data]'` works only if an index has
this project, which is not so for a clone or for a wheel from somebody else.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

DISTRIBUTION = "deeprebirth-caffe"
ALSO_KNOWN_AS = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
}
"""Other packages that bring the same library."""


def pip_install(extra: str, package: str = "") -> str:
    """The command that installs what an extra is missing here.

    Args:
        extra: one of setup.cfg's `options.extras_require`.
        package: a single package of the extra. Packages that the extra brings only on some systems are named only
            if you ask for them here.

    Returns:
        `pip install 'A<2,>=1' 'B>=3'`: the packages that are not installed; all of them if none is missing (one must
        be broken).
    """
    wanted = _requirements(extra, package)
    if not wanted:  # the clone was never installed, or not since this extra was added
        return f"pip install -e '{Path(__file__).parents[1]}[{extra}]'"
    missing = [requirement for name, requirement in wanted if not version_of(name)]
    return " ".join(
        ["pip install", *(f"'{missed}'" for missed in missing or (requirement for _, requirement in wanted))]
    )


def version_of(package: str) -> str:
    """The version of a package, or of another package with the same library; empty if there is none."""
    for name in (package, *ALSO_KNOWN_AS.get(package, ())):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _requirements(extra: str, package: str) -> list[tuple[str, str]]:
    """The packages of an extra: name, and name with versions. None for an unknown extra."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or ()
    except importlib.metadata.PackageNotFoundError:
        return []
    requirements = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]
        belongs = re.search(rf"""extra == ['"]{re.escape(extra)}['"]""", marker)
        conditional = " and " in marker
        if belongs and (name == package if package else not conditional):
            requirements.append((name, requirement.strip()))
    return requirements
