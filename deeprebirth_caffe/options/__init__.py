"""What each command may be told: a frozen dataclass a command, from which all that knows of options is derived."""
