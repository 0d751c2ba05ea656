"""Homework 2: convolutional and recurrent networks."""
