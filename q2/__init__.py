"""Question 2's parts: the settings, the strong recipe, comparisons, saved networks, shifted images, plots."""
