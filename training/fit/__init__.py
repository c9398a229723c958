"""Training runs: the network, the loop, its checkpoints and the folder of a run. Knows nothing of bundles to export."""
