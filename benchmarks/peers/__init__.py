"""Other trainers of the same model, each in its own words; run by .venv-peers."""
