"""Question 3: speech recognition on LJ Speech, with an LSTM decoder or a Transformer decoder."""
