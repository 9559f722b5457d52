"""A program in two halves: web processes know its endpoints, and workers elsewhere have its nodes."""
