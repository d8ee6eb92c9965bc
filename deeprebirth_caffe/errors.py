"""The errors people see, and the exit codes they end with.

Exit codes are part of the interface: 0 done, 1 failed, 2 usage (click's own), 3 refused or check failed.
"""

from __future__ import annotations

import shlex


class RebirthError(Exception):
    """Something the user can act on; its text is one line that says what, where and what to do."""

    exit_code: int = 1

    def within(self, where: str) -> None:
        """Lets the text say first where it happened; whatever else the error holds stays."""
        self.args = (f"{where}: {self}", *self.args[1:])


class RefusedError(RebirthError):
    """What was explicitly asked for was refused, or a check did not hold."""

    exit_code = 3


class UsageError(RebirthError):
    """The command line names something that is not there."""

    exit_code = 2


def spelled_command(*words: object) -> str:
    """A command of ours as an error or a note tells people to type it: quoted as a shell wants it.

    Args:
        words: behind `rebirth`.
    """
    return shlex.join(["rebirth", *map(str, words)])
