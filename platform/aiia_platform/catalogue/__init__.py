"""The models that there are and could be, for administrators: what the manager knows, and what it can be told."""
