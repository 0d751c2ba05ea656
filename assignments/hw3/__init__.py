"""Homework 3: energy-based models, and reading words."""
