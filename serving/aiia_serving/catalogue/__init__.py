"""Model documents: what a model is, the same on one machine and as a custom resource in a cluster."""
