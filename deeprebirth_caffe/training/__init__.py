"""The training loop and what it is made of, whichever engine trains."""
