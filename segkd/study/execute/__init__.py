"""Training what a study lacks: jobs in order, on this machine's cores and devices or on a Ray cluster."""
