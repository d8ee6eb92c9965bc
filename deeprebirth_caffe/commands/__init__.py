"""What each command does, one module a command, as functions that others can call too."""
