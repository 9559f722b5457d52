"""Runners: take an envelope, run its nodes, send the outcome. An async runner would join here and change nothing else."""
