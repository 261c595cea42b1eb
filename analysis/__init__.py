"""Tables and figures of a study, rendered from the store alone."""
