"""Runners: take an envelope, run its nodes, send the outcome. An async runner joins here and changes nothing else."""
