"""Homework 4: attention and Transformers."""
