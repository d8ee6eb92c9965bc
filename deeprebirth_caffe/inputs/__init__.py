"""What a net reads: its data layers, pictures, and their labels."""
