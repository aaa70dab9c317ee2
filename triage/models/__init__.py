"""How likely is each label, from the whole text? Backends behind one protocol (`base`)."""
