DEFAULTS = dict(epochs=1)
