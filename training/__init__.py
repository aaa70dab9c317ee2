"""Scripts a data scientist runs: corpus, encoder, training, export, evaluation. Nothing in `triage` imports this."""
