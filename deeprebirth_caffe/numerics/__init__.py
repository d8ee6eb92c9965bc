"""The algebra of folding, fitting and inheriting weights, in pure NumPy. It does not know nets."""
