"""Pure NumPy: the algebra of folding and inheriting weights. Knows nothing of nets."""
