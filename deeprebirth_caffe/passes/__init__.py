"""The passes, one a file: `exact` keeps the function of the net, `relearn` does not."""
