"""The judge of a backward pass: NumPy, and hypothesis where it draws; torch only where it is asked
for."""
