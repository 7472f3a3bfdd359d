"""The HTTP skin over the cluster: what goes over the wire and nothing else."""
