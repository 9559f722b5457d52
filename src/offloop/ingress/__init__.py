"""The only way in: admit, register, enqueue, wait, clean up. It applies what `core/` decides and holds no policy."""
