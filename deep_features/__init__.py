"""Deep feature learning on MNIST: five scripts, run from the root, and what they share."""
