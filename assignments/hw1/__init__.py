"""Homework 1: backpropagation by hand."""
