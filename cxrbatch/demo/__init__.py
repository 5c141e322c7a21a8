"""The whole job on phantoms: an engine that learns from them, and studies for it to score."""
# Nothing is imported here: the processes that draw phantoms load this package, and torch is not for them.
