"""Question 1's parts: monomials, chunked passes, PyTorch's operators, the demonstration, plots."""
