"""Keeps what runs equal to the wanted Model documents, and says how each model is."""
