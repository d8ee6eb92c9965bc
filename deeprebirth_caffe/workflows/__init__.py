"""What each command does, as functions that others can call too."""
