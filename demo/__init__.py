"""Every course in brief, on synthetic data: what `make demo` runs."""
