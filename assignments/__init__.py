"""Assignments 1 to 4, as the course's students hand them in."""
