"""Speech and its transcripts, for every course: sound files, spectrograms, the alphabet, corpora."""
