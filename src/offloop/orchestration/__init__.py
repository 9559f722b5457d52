"""Who runs the loops of a mode: start, watch, replace, drain, stop. Decisions about them are `core/crew`'s."""
