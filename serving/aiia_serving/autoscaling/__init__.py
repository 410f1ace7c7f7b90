"""How many replicas a model should have, from the seconds of work that wait in its queue."""
